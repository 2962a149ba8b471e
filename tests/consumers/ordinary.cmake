# SPDX-License-Identifier: MIT
# What a README tells anyone to type, from nothing, where no package but Eigen is installed: configure,
# build and install BATCHNORM below FOLDER; then build a consumer from what was installed, and run it.
cmake_minimum_required(VERSION 3.18)

include(${CMAKE_CURRENT_LIST_DIR}/run.cmake)

set(settings -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER})
foreach(package IN ITEMS Catch2 nlohmann_json ZLIB MPI cxxopts Threads OpenMP benchmark PkgConfig)
  list(APPEND settings -DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
set(prefix ${FOLDER}/prefix)
set(consumer ${CMAKE_CURRENT_LIST_DIR}/project)

file(REMOVE_RECURSE ${FOLDER})
run(${CMAKE_COMMAND} -S ${BATCHNORM} -B ${FOLDER}/build ${settings})
run(${CMAKE_COMMAND} --build ${FOLDER}/build)
run(${CMAKE_COMMAND} --install ${FOLDER}/build --prefix ${prefix})
run(${CMAKE_COMMAND} -S ${consumer} -B ${FOLDER}/consumer ${settings} -DHOW=find_package
    -DCMAKE_PREFIX_PATH=${prefix} -DVERSION=${VERSION} -DNEXT_VERSION=${NEXT_VERSION})
run(${CMAKE_COMMAND} --build ${FOLDER}/consumer)
run(${FOLDER}/consumer/consumer)
