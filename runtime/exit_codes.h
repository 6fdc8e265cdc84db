// Exit codes of a worker process that tell whoever runs it more than that it failed.
#ifndef MOE_RUNTIME_EXIT_CODES_H_
#define MOE_RUNTIME_EXIT_CODES_H_

namespace moe::runtime {

// The GPU was lost (an Xid, a sticky CUDA error): another process on it may fare no better.
// EX_IOERR of sysexits.h, which nothing else here ends with.
inline constexpr int kGpuLostExitCode = 74;

}  // namespace moe::runtime

#endif  // MOE_RUNTIME_EXIT_CODES_H_
