# The slow checks as tests of the plain build: tests under sanitizers, tests of the GPU kernels, fuzzers,
# lint. A sanitizer needs a build of its own (tools/build-sanitized), and so do the GPU kernels
# (tools/build-cuda). It is a test too: the first one of its kind, and the others do not run without it.
# All carry the label `slow`: `ctest -LE slow` leaves them out.

# moe_add_sanitized_tests(KIND TEST ...): KIND is address or thread; each TEST once more, from the
# build folder that ends in -KIND.
function(moe_add_sanitized_tests kind)
  set(build_dir ${CMAKE_BINARY_DIR}-${kind})
  add_test(NAME ${kind}.build COMMAND ${CMAKE_SOURCE_DIR}/tools/build-sanitized ${kind})
  set_tests_properties(${kind}.build PROPERTIES
    FIXTURES_SETUP ${kind} RUN_SERIAL ON TIMEOUT 2400 LABELS "slow;${kind}"
    ENVIRONMENT "MOE_BUILD_DIR=${CMAKE_BINARY_DIR}")
  # Some libraries (gRPC, Abseil) are not instrumented; the file says which of their reports are noise.
  # Abseil's headers poison free slots of hash tables, which its library would have to lift: so not.
  set(asan detect_leaks=1 strict_string_checks=1 detect_stack_use_after_return=1 allow_user_poisoning=0)
  list(JOIN asan : asan)
  # The plain build looks for orders of events that break a rule; here each line must run often enough.
  set(environment
    "MOE_SIMULATION_SEED=0-249"
    "ASAN_OPTIONS=${asan}"
    "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1"
    "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/thread.supp:halt_on_error=1")
  foreach(test IN LISTS ARGN)
    set(filter "")
    get_property(thread_filter GLOBAL PROPERTY MOE_THREAD_FILTER_${test})
    if(kind STREQUAL "thread" AND thread_filter)
      set(filter --gtest_filter=${thread_filter})
    endif()
    add_test(NAME ${kind}.${test} COMMAND ${build_dir}/bin/${test} ${filter}
             WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${kind}.${test} PROPERTIES
      FIXTURES_REQUIRED ${kind} TIMEOUT 900 LABELS "slow;sanitized;${kind}"
      ENVIRONMENT "${environment}")
  endforeach()
endfunction()

# Each TEST from the build folder that ends in -cuda. A test that needs a GPU ends with kGpuMissing of
# tests/device/gpu_main.cc where there is none, which ctest shows as skipped.
function(moe_add_cuda_checks)
  set(build_dir ${CMAKE_BINARY_DIR}-cuda)
  add_test(NAME cuda.build COMMAND ${CMAKE_SOURCE_DIR}/tools/build-cuda)
  set_tests_properties(cuda.build PROPERTIES
    FIXTURES_SETUP cuda RUN_SERIAL ON TIMEOUT 2400 LABELS "slow;cuda"
    ENVIRONMENT "MOE_BUILD_DIR=${CMAKE_BINARY_DIR}")
  foreach(test IN LISTS ARGN)
    add_test(NAME cuda.${test} COMMAND ${build_dir}/bin/${test} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(cuda.${test} PROPERTIES
      FIXTURES_REQUIRED cuda TIMEOUT 600 LABELS "slow;cuda" SKIP_RETURN_CODE 77)
  endforeach()
  # For the architecture that cuda.build has built for.
  add_test(NAME cuda.worker_image
           COMMAND ${CMAKE_SOURCE_DIR}/tests/deploy/cuda_worker_test ${CMAKE_BINARY_DIR})
  set_tests_properties(cuda.worker_image PROPERTIES
    FIXTURES_REQUIRED cuda RUN_SERIAL ON TIMEOUT 2400 LABELS "slow;cuda"
    ENVIRONMENT "MOE_CUDA_ARCHITECTURES=90")
endfunction()

# Sets VARIABLE to the tests of FOLDER and below that were added so far.
function(moe_tests_below folder variable)
  get_property(tests DIRECTORY ${folder} PROPERTY TESTS)
  get_property(subfolders DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
  foreach(subfolder IN LISTS subfolders)
    moe_tests_below(${subfolder} below)
    list(APPEND tests ${below})
  endforeach()
  set(${variable} ${tests} PARENT_SCOPE)
endfunction()

# Called once, from the last folder of tests. The plain tests run before these; where ctest runs several
# at a time, it needs to be told.
function(moe_add_checks)
  if(MOE_SANITIZE OR MOE_CUDA OR NOT MOE_BUILD_TESTS)
    return()
  endif()
  moe_tests_below(${CMAKE_SOURCE_DIR}/tests plain_tests)
  add_test(NAME lint COMMAND ${CMAKE_SOURCE_DIR}/tools/lint)
  set_tests_properties(lint PROPERTIES RUN_SERIAL ON TIMEOUT 2400 LABELS slow
    ENVIRONMENT "MOE_BUILD_DIR=${CMAKE_BINARY_DIR}")
  foreach(kind address thread)
    string(TOUPPER ${kind} upper)
    get_property(tests GLOBAL PROPERTY MOE_${upper}_TESTS)
    moe_add_sanitized_tests(${kind} ${tests})
  endforeach()
  get_property(cuda_tests GLOBAL PROPERTY MOE_CUDA_TESTS)
  moe_add_cuda_checks(${cuda_tests})
  get_property(fuzzers GLOBAL PROPERTY MOE_FUZZERS)
  foreach(name IN LISTS fuzzers)
    get_property(runs GLOBAL PROPERTY MOE_FUZZER_RUNS_${name})
    # A fixed seed: the same tree gives the same answer.
    add_test(NAME fuzz.${name} COMMAND ${CMAKE_SOURCE_DIR}/tools/fuzz ${name} -seed=1 -runs=${runs})
    set_tests_properties(fuzz.${name} PROPERTIES
      FIXTURES_REQUIRED address TIMEOUT 600 LABELS "slow;fuzz"
      ENVIRONMENT "MOE_BUILD_DIR=${CMAKE_BINARY_DIR}")
  endforeach()
  set_tests_properties(lint address.build thread.build cuda.build PROPERTIES DEPENDS "${plain_tests}")
endfunction()
