# Precompiled headers, whose compile time is mostly that of gRPC, Abseil, nlohmann/json and GoogleTest:
# for tests, and in builds with sanitizers for libraries, too. The plain build of libraries and programs
# still sees a missing #include. CMake's own are not used: what a compiler writes holds the path of
# the build folder, so that the compiler cache could never hit for another checkout. These live in a
# folder named after all that they depend on, outside the checkout where a cache folder is mounted.

# A precompiled header is only taken with the options that it was made with.
add_compile_options(-pthread)

# Makes the precompiled header NAME (precompiled/NAME.h) with the directory's options and ARGN, and
# sets MOE_PRECOMPILED_NAME to the options that take it.
function(moe_precompile name)
  set(headers libraries.h tests.h)
  get_directory_property(options COMPILE_OPTIONS)
  separate_arguments(flags UNIX_COMMAND "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")
  list(APPEND flags ${options} -std=c++20 ${MOE_WARNINGS} ${ARGN})
  if(MOE_SANITIZE)
    list(APPEND flags -DNDEBUG_SANITIZER)
  endif()
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
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    set(made ${folder}/${name}.pch)
    set(how -Xclang -fno-pch-timestamp -fpch-instantiate-templates)
    set(use "SHELL:-include-pch ${made}")
  else()
    # Found beside the header that is included.
    set(made ${folder}/${name}.h.gch)
    set(how "")
    set(use "SHELL:-include ${folder}/${name}.h" -Winvalid-pch -Wno-error=invalid-pch)
  endif()
  set(MOE_PRECOMPILED_${name} ${use} PARENT_SCOPE)
  if(EXISTS ${made})
    return()
  endif()
  foreach(header IN LISTS headers)
    configure_file(${CMAKE_SOURCE_DIR}/cmake/precompiled/${header} ${folder}/${header} COPYONLY)
  endforeach()
  message(STATUS "Precompiling cmake/precompiled/${name}.h")
  # Under another name first: a build of another checkout may look for it.
  string(RANDOM random)
  execute_process(
    COMMAND ${CMAKE_CXX_COMPILER} ${flags} ${how} -x c++-header ${folder}/${name}.h
            -o ${folder}/${random}.made
    COMMAND_ERROR_IS_FATAL ANY)
  file(RENAME ${folder}/${random}.made ${made})
endfunction()

if(MOE_BUILD_TESTS)
  # gcc takes it only where what its headers look at is defined as it was then: so everywhere, what
  # some of the libraries' targets define.
  set(defined -DGTEST_HAS_PTHREAD=1 -DNOMINMAX)
  moe_precompile(tests -fPIE -O0 ${defined})
  list(APPEND MOE_PRECOMPILED_tests ${defined})
endif()
if(MOE_SANITIZE)
  set(fuzzed "")
  if(MOE_BUILD_FUZZERS)
    set(fuzzed -fsanitize=fuzzer-no-link)
  endif()
  moe_precompile(libraries -fPIC ${fuzzed})
endif()

# moe_use_precompiled(TARGET NAME): where there is one.
function(moe_use_precompiled target name)
  target_compile_options(${target} PRIVATE ${MOE_PRECOMPILED_${name}})
endfunction()
