# SPDX-License-Identifier: MIT
# In the consumer's build BUILD: no tests, nothing to install, no programs but its own.
include(${CMAKE_CURRENT_LIST_DIR}/run.cmake)

run(${CMAKE_CTEST_COMMAND} -N WORKING_DIRECTORY ${BUILD} OUTPUT_VARIABLE tests)
if(NOT tests MATCHES "Total Tests: 0")
  message(SEND_ERROR "expected no tests, got:\n${tests}")
endif()

file(REMOVE_RECURSE ${BUILD}/installed)
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${BUILD}/installed)
file(GLOB_RECURSE installed ${BUILD}/installed/*)
if(installed)
  message(SEND_ERROR "expected nothing installed, got: ${installed}")
endif()

run(${CMAKE_COMMAND} --build ${BUILD} --target help OUTPUT_VARIABLE targets)
if(targets MATCHES "test_support|golden|quickstart|fashion")
  message(SEND_ERROR "expected the consumer's own targets, got:\n${targets}")
endif()
