# SPDX-License-Identifier: MIT
# run(COMMAND...): ends with an error if the command does. A macro, so that OUTPUT_VARIABLE is the caller's.
macro(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "failed: ${ARGN}")
  endif()
endmacro()
