# For scripts that ctest runs, which keeps their output until their end; to be sourced. tools/test opens
# descriptor 3 for who is watching: where it is open, output goes there as well.
#   watched COMMAND ...   runs the command so
#   watched_fd            the descriptor for progress: 3, or 2 where nobody watches there

watched_fd=2
{ : >&3; } 2>/dev/null && watched_fd=3

watched() {
  if [[ $watched_fd -eq 3 ]]; then
    "$@" 2>&1 | tee /dev/fd/3
  else
    "$@"
  fi
}
