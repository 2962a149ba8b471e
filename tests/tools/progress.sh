# SPDX-License-Identifier: MIT
# Sourced, not run: packages.sh does so. Shows how far a long command is: with_progress LOG COMMAND...

# progress_columns: how wide a line on the terminal may be. The last column would wrap.
progress_columns() {
  # shellcheck disable=SC2046  # two numbers, meant to split
  set -- $(stty size </dev/tty 2>/dev/null || true)
  if [ "${2:-0}" -gt 1 ]; then echo $(($2 - 1)); else echo 79; fi
}

# progress_of LINE: the progress that a line of cmake --build or of apt-get tells, or nothing.
# apt-get prints "pmstatus:libfoo:12.5000:Unpacking libfoo", and dlstatus in the same format.
progress_of() {
  case $1 in
    *'] Built target '*) ;;
    '['*[0-9]'%] '* | '['[0-9]*/*[0-9]'] '*) printf '%s\n' "$1" | sed 's|CMakeFiles/[^/]*\.dir/||' ;;
    dlstatus:*:*:* | pmstatus:*:*:*)
      progress_rest=${1#*status:*:}
      printf '[%3s%%] %s\n' "${progress_rest%%[.:]*}" "${progress_rest#*:}"
      ;;
  esac
}

# show_progress: reads a command's output and shows the progress in it: on a terminal as one line that
# is overwritten, elsewhere as lines, where each percentage of apt-get's many is told once.
show_progress() {
  progress_on_terminal=
  if [ -t 1 ]; then progress_on_terminal=$(progress_columns); fi
  progress_last=
  while IFS= read -r progress_line; do
    progress_text=$(progress_of "$progress_line")
    [ -n "$progress_text" ] || continue
    if [ -n "$progress_on_terminal" ]; then
      printf '\r\033[2K%.*s' "$progress_on_terminal" "$progress_text"
    else
      case $progress_line in
        [dp][lm]status:*) [ "${progress_text%%]*}" != "$progress_last" ] || continue ;;
      esac
      progress_last=${progress_text%%]*}
      printf '%s\n' "$progress_text"
    fi
  done
  if [ -n "$progress_on_terminal" ]; then printf '\r\033[2K'; fi
}

# show_log LOG: prints the command's output except its progress, for errors.
show_log() { grep -v -e '^[dp][lm]status:' -e '^\[ *[0-9/]*%*\] ' "$1" >&2 || :; }

# with_progress LOG COMMAND...: runs COMMAND, writes its output to LOG and shows its progress. Fails
# if COMMAND fails.
with_progress() {
  progress_log=$1
  shift
  rm -f "$progress_log.failed"
  { "$@" 2>&1 || : >"$progress_log.failed"; } | tee "$progress_log" | show_progress
  if [ -e "$progress_log.failed" ]; then
    rm -f "$progress_log.failed"
    return 1
  fi
}
