# The objects that are compiled once for each CPU level must define nothing that the linker could
# merge between levels: every symbol lies in the level's own namespace.
#   cmake -DNM=... -DLEVEL=... -DOBJECTS=a.o;b.o -P check_level_symbols.cmake
foreach(object ${OBJECTS})
  execute_process(COMMAND ${NM} --demangle --defined-only --extern-only --format=posix ${object}
                  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(symbols STREQUAL "")
    message(FATAL_ERROR "${object} defines nothing")
  endif()
  string(REPLACE "\n" ";" lines "${symbols}")
  foreach(line ${lines})
    if(NOT line MATCHES "^moe::kernels::${LEVEL}::" AND NOT line MATCHES "^(__asan|__odr_asan|DW.ref)")
      message(FATAL_ERROR "${object} defines a symbol that other levels may share: ${line}")
    endif()
  endforeach()
endforeach()
