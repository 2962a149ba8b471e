# SPDX-License-Identifier: MIT
# includes.sh LIBRARY COMPILE...: batchnorm.hpp reaches files of the library's core alone, none of the
# opt-in headers and nothing else outside of the compiler's and Eigen's own (which -MM leaves out).
set -eu
library=$1
shift
list=$("$@" -MM -x c++ "$library/batchnorm/batchnorm.hpp" | tr -d '\\' | tr ' ' '\n' | grep '\.h')
status=0
for file in $list; do
  case ${file#"$library/batchnorm/"} in
    moments.hpp | moments/* | sync/* | threads.hpp | fold.hpp | state.hpp | federated.hpp | diagnose.hpp | safetensors.hpp | safetensors/* | sync.hpp | mpi.hpp | extras/* | /*)
      echo "batchnorm.hpp must not include $file"
      status=1
      ;;
  esac
done
# shellcheck disable=SC2086  # a list, meant to split
echo "$(echo "$list" | wc -l) files, $(cat $list | wc -l) lines:"
echo "$list"
exit $status
