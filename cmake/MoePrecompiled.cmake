# Precompiled headers for the builds with sanitizers, whose compile time is mostly the headers of gRPC,
# Abseil, nlohmann/json and GoogleTest. CMake's own are not used: what clang writes holds the path of
# the build folder, so that the compiler cache could never hit for another checkout. These live in a
# folder named after all that they depend on, outside the checkout where a cache folder is mounted.

if(NOT MOE_SANITIZE)
  function(moe_use_precompiled)
  endfunction()
  return()
endif()

# A precompiled header is only taken with the options that it was made with.
add_compile_options(-pthread)

# Makes the precompiled header NAME (precompiled/NAME.h) with the directory's options and ARGN, and
# sets MOE_PRECOMPILED_NAME to its path.
function(moe_precompile name)
  set(headers libraries.h tests.h)
  get_directory_property(options COMPILE_OPTIONS)
  separate_arguments(flags UNIX_COMMAND "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")
  list(APPEND flags ${options} -std=c++20 ${MOE_WARNINGS} -DNDEBUG_SANITIZER ${ARGN})
  # Not where the checkout is.
  string(REPLACE ${CMAKE_SOURCE_DIR} . key "${CMAKE_CXX_COMPILER} ${CMAKE_CXX_COMPILER_VERSION} ${flags}")
  foreach(header IN LISTS headers)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
                 ${CMAKE_SOURCE_DIR}/cmake/precompiled/${header})
    file(READ ${CMAKE_SOURCE_DIR}/cmake/precompiled/${header} text)
    string(APPEND key "${text}")
  endforeach()
  # The versions of the libraries.
  if(EXISTS /var/lib/dpkg/status)
    file(SHA256 /var/lib/dpkg/status installed)
    string(APPEND key "${installed}")
  endif()
  string(SHA256 key "${key}")
  string(SUBSTRING ${key} 0 16 key)
  set(folder ${CMAKE_BINARY_DIR}/precompiled/${key})
  if(DEFINED ENV{CCACHE_DIR})
    cmake_path(SET folder NORMALIZE "$ENV{CCACHE_DIR}/../precompiled/${key}")
  endif()
  set(MOE_PRECOMPILED_${name} ${folder}/${name}.pch PARENT_SCOPE)
  if(EXISTS ${folder}/${name}.pch)
    return()
  endif()
  foreach(header IN LISTS headers)
    configure_file(${CMAKE_SOURCE_DIR}/cmake/precompiled/${header} ${folder}/${header} COPYONLY)
  endforeach()
  message(STATUS "Precompiling cmake/precompiled/${name}.h")
  # Under another name first: a build of another checkout may look for it.
  string(RANDOM random)
  execute_process(
    COMMAND ${CMAKE_CXX_COMPILER} ${flags} -Xclang -fno-pch-timestamp -fpch-instantiate-templates
            -x c++-header ${folder}/${name}.h -o ${folder}/${name}.pch.${random}
    COMMAND_ERROR_IS_FATAL ANY)
  file(RENAME ${folder}/${name}.pch.${random} ${folder}/${name}.pch)
endfunction()

set(fuzzed "")
if(MOE_BUILD_FUZZERS)
  set(fuzzed -fsanitize=fuzzer-no-link)
endif()
moe_precompile(libraries -fPIC ${fuzzed})
moe_precompile(tests -fPIE -O0)

# moe_use_precompiled(TARGET NAME)
function(moe_use_precompiled target name)
  target_compile_options(${target} PRIVATE "SHELL:-include-pch ${MOE_PRECOMPILED_${name}}")
endfunction()
