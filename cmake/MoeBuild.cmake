# Build rules of this project: one function per kind of target, so that every target gets the same
# warnings, sanitizers and caches.

find_program(MOE_CCACHE ccache)
if(MOE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MOE_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${MOE_CCACHE})
endif()
find_program(MOE_MOLD mold)
if(MOE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Floating point must not depend on what the compiler finds convenient: no contraction into FMA.
add_compile_options(-ffp-contract=off)

set(MOE_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
    -Wnon-virtual-dtor -Woverloaded-virtual -Werror)
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  list(APPEND MOE_WARNINGS -Wthread-safety)
endif()

# Linked into every program and test: see there.
add_library(moe_ignore_lock_cycles OBJECT ${CMAKE_CURRENT_LIST_DIR}/ignore_lock_cycles.cc)

if(MOE_SANITIZE)
  # -O1: builds faster than -O2, and stack traces keep most frames.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -DNDEBUG")
  # The distribution's Abseil is not built with sanitizers: its containers must keep the layout that
  # they have without them.
  add_compile_definitions(NDEBUG_SANITIZER)
  add_compile_options(-fsanitize=${MOE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${MOE_SANITIZE})
endif()
if(MOE_SANITIZE MATCHES "thread")
  add_compile_options(-fsanitize-ignorelist=${CMAKE_SOURCE_DIR}/tests/sanitizers/thread.ignore)
  # The distribution's Abseil is built without ThreadSanitizer: see tests/sanitizers/absl_mutex.cc.
  add_library(moe_tsan_absl OBJECT tests/sanitizers/absl_mutex.cc)
  set(kernel_timeout NS0_24synchronization_internal13KernelTimeoutE)
  foreach(symbol Mutex4LockEv Mutex6UnlockEv Mutex7TryLockEv Mutex10ReaderLockEv
          Mutex12ReaderUnlockEv Mutex11AwaitCommonERKNS0_9ConditionE${kernel_timeout}
          Mutex14LockWhenCommonERKNS0_9ConditionE${kernel_timeout}b)
    add_link_options(-Wl,--wrap=_ZN4absl7debian75${symbol})
  endforeach()
  add_link_options(-Wl,--wrap=_ZN4absl7debian77CondVar10WaitCommonEPNS0_5MutexE${kernel_timeout}
                   -Wl,--wrap=_ZN4absl7debian712Notification6NotifyEv
                   -Wl,--wrap=_ZNK4absl7debian712Notification19WaitForNotificationEv)
endif()

include(MoePrecompiled)

# moe_add_library(NAME SOURCES a.cc ... [DEPS lib ...]): a static library of this project.
function(moe_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(${name} PRIVATE ${MOE_WARNINGS})
  if(MOE_BUILD_FUZZERS)
    # Tells libFuzzer which branches an input takes.
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  moe_use_precompiled(${name} libraries)
  target_link_libraries(${name} PUBLIC ${ARG_DEPS})
endfunction()

# moe_add_executable(NAME SOURCES a.cc ... [DEPS lib ...]): what every program has, tests too.
function(moe_add_executable name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(${name} PRIVATE ${MOE_WARNINGS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} absl::synchronization)
  target_sources(${name} PRIVATE $<TARGET_OBJECTS:moe_ignore_lock_cycles>)
  if(TARGET moe_tsan_absl)
    target_sources(${name} PRIVATE $<TARGET_OBJECTS:moe_tsan_absl>)
  endif()
endfunction()

# What tools/build-sanitized builds: the tests that a build with MOE_SANITIZE runs.
add_custom_target(sanitized_tests)

# moe_add_test(NAME SOURCES a.cc ... [DEPS lib ...] [TIMEOUT seconds] [LABELS label ...] [THREADS]
#              [THREAD_FILTER pattern] [UNSANITIZED]):
# one GoogleTest program, registered with ctest as one test. The working folder is the source tree.
# It also runs under AddressSanitizer and UndefinedBehaviorSanitizer, and with THREADS, for code
# that several threads run at once, under ThreadSanitizer: all of it, or the tests that match
# THREAD_FILTER (a GoogleTest filter). See MoeChecks.cmake. UNSANITIZED: under no sanitizer.
function(moe_add_test name)
  if(NOT MOE_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "THREADS;UNSANITIZED" "TIMEOUT;THREAD_FILTER" "SOURCES;DEPS;LABELS"
                        ${ARGN})
  if(ARG_UNSANITIZED AND MOE_SANITIZE)
    return()
  endif()
  moe_add_executable(${name}
    SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  # A third of the compile time; what is tested keeps its own.
  target_compile_options(${name} PRIVATE -O0)
  moe_use_precompiled(${name} tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
  if(ARG_THREADS OR ARG_THREAD_FILTER OR NOT MOE_SANITIZE MATCHES "thread")
    add_dependencies(sanitized_tests ${name})
  endif()
  if(ARG_UNSANITIZED)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY MOE_ADDRESS_TESTS ${name})
  if(ARG_THREADS OR ARG_THREAD_FILTER)
    set_property(GLOBAL APPEND PROPERTY MOE_THREAD_TESTS ${name})
    set_property(GLOBAL PROPERTY MOE_THREAD_FILTER_${name} "${ARG_THREAD_FILTER}")
  endif()
endfunction()
