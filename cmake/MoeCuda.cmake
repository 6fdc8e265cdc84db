# GPU code, built with MOE_CUDA=ON in a build folder of its own (tools/build-cuda). Without it nothing
# here needs a CUDA compiler; the tests' names are known all the same (MoeChecks.cmake runs them).

if(MOE_CUDA)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90 CACHE STRING "Compute capabilities to build for")
  endif()
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
  if(MOE_CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${MOE_CCACHE})
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  # A program that links the runtime statically starts on machines without it.
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O2 -g1 -lineinfo -DNDEBUG")
  find_package(CUDAToolkit REQUIRED)
  # The header alone: programs load the library when they need it. Where the toolkit of
  # tools/cuda-toolkit has it, or a system.
  find_path(MOE_NCCL_INCLUDE_DIR nccl.h
            HINTS ${CUDAToolkit_BIN_DIR}/../../nccl/include ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
  find_library(MOE_NCCL_LIBRARY libnccl.so.2  # for tests
               HINTS ${MOE_NCCL_INCLUDE_DIR}/../lib ${CUDAToolkit_LIBRARY_DIR})

  # nvcc's own output does not pass -Wpedantic. No -use_fast_math and no contraction that the source
  # does not ask for (--fmad=false): kernels say where they want an FMA.
  set(MOE_CUDA_WARNINGS ${MOE_WARNINGS})
  list(REMOVE_ITEM MOE_CUDA_WARNINGS -Wpedantic)
  list(JOIN MOE_CUDA_WARNINGS , MOE_CUDA_WARNINGS)
  # A kernel whose registers do not suffice would use device memory for them, without a word.
  set(MOE_CUDA_OPTIONS --Werror=all-warnings -Xptxas=-Werror,-warn-spills,-warn-lmem-usage
      --fmad=false -Xcompiler=${MOE_CUDA_WARNINGS})
endif()

# What tools/build-cuda builds.
add_custom_target(cuda_tests)

# moe_add_cuda_library(NAME SOURCES a.cu ... [DEPS lib ...]): a static library of .cu files.
function(moe_add_cuda_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(${name} PRIVATE ${MOE_CUDA_OPTIONS})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} CUDA::cudart_static)
endfunction()

# moe_add_cuda_test(NAME SOURCES a.cc ... [DEPS lib ...] [GPU]): one GoogleTest program, run as
# cuda.NAME. With GPU it needs one, and says that it was skipped where there is none.
function(moe_add_cuda_test name)
  if(NOT MOE_BUILD_TESTS)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY MOE_CUDA_TESTS ${name})
  if(NOT MOE_CUDA)
    return()
  endif()
  cmake_parse_arguments(ARG "GPU" "" "SOURCES;DEPS" ${ARGN})
  moe_add_executable(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gmock)
  if(ARG_GPU)
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/device/gpu_main.cc)
    target_link_libraries(${name} PRIVATE moe_device)
  else()
    target_link_libraries(${name} PRIVATE GTest::gtest_main)
  endif()
  add_dependencies(cuda_tests ${name})
endfunction()
