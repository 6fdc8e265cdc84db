# Programs for a GPU are built in the build container and run on the machine itself, with the C and C++
# libraries of the container: so that machine needs its GPU's driver and nothing else. To be sourced.
#   stage FOLDER PROGRAM ...       inside the container: the programs, and the libraries and loader that
#                                  they were linked with
#   run_staged FOLDER NAME ARG ... runs bin/NAME, under $GPU_TOOL where that is set

stage() {
  local folder=$1 program
  shift
  rm -rf "$folder"
  mkdir -p "$folder/bin" "$folder/lib"
  for program in "$@"; do
    install -s "$program" "$folder/bin/"
    ldd "$program" | awk '/=> \//{print $3} /ld-linux/{print $1}'
  done | sort -u | xargs -I{} cp -L {} "$folder/lib/"
  # Loaded by name when a program needs it, so ldd does not see it.
  cp -L "$(tools/cuda-toolkit)/../nccl/lib/libnccl.so.2" "$folder/lib/"
}

run_staged() {
  local folder=$1 program=$1/bin/$2
  shift 2
  # shellcheck disable=SC2086
  MOE_STAGED_PROGRAM=$program MOE_STAGED_LIBRARIES=$folder/lib \
    ${GPU_TOOL:-} "$folder/lib/ld-linux-x86-64.so.2" --library-path "$folder/lib" "$program" "$@"
}
