// Tells ThreadSanitizer about absl::Mutex, CondVar and Notification of the distribution's Abseil,
// which is built without it: every access that they guard would look like a race otherwise.
//
// Linked into every program of a build with -DMOE_SANITIZE=thread, with the functions below wrapped
// by the linker (--wrap). Conditions of Await run inside the library, after the release as this
// file sees it; tests/sanitizers/thread.supp knows them by absl's own frames.
#include <sanitizer/tsan_interface.h>

#include <cstdint>

// An absl KernelTimeout is one 64-bit number, passed as such.
extern "C" {

void __real__ZN4absl7debian75Mutex4LockEv(void* mutex);
void __real__ZN4absl7debian75Mutex6UnlockEv(void* mutex);
bool __real__ZN4absl7debian75Mutex7TryLockEv(void* mutex);
void __real__ZN4absl7debian75Mutex10ReaderLockEv(void* mutex);
void __real__ZN4absl7debian75Mutex12ReaderUnlockEv(void* mutex);
bool __real__ZN4absl7debian75Mutex11AwaitCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutE(
    void* mutex, const void* condition, uint64_t timeout);
bool __real__ZN4absl7debian75Mutex14LockWhenCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutEb(
    void* mutex, const void* condition, uint64_t timeout, bool write);
bool __real__ZN4absl7debian77CondVar10WaitCommonEPNS0_5MutexENS0_24synchronization_internal13KernelTimeoutE(
    void* condvar, void* mutex, uint64_t timeout);
void __real__ZN4absl7debian712Notification6NotifyEv(void* notification);
void __real__ZNK4absl7debian712Notification19WaitForNotificationEv(const void* notification);

void __wrap__ZN4absl7debian75Mutex4LockEv(void* mutex) {
  __real__ZN4absl7debian75Mutex4LockEv(mutex);
  __tsan_acquire(mutex);
}

void __wrap__ZN4absl7debian75Mutex6UnlockEv(void* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian75Mutex6UnlockEv(mutex);
}

bool __wrap__ZN4absl7debian75Mutex7TryLockEv(void* mutex) {
  const bool locked = __real__ZN4absl7debian75Mutex7TryLockEv(mutex);
  if (locked) {
    __tsan_acquire(mutex);
  }
  return locked;
}

void __wrap__ZN4absl7debian75Mutex10ReaderLockEv(void* mutex) {
  __real__ZN4absl7debian75Mutex10ReaderLockEv(mutex);
  __tsan_acquire(mutex);
}

void __wrap__ZN4absl7debian75Mutex12ReaderUnlockEv(void* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian75Mutex12ReaderUnlockEv(mutex);
}

bool __wrap__ZN4absl7debian75Mutex11AwaitCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutE(
    void* mutex, const void* condition, uint64_t timeout) {
  __tsan_release(mutex);
  const bool met =
      __real__ZN4absl7debian75Mutex11AwaitCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutE(
          mutex, condition, timeout);
  __tsan_acquire(mutex);
  return met;
}

bool __wrap__ZN4absl7debian75Mutex14LockWhenCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutEb(
    void* mutex, const void* condition, uint64_t timeout, bool write) {
  const bool met =
      __real__ZN4absl7debian75Mutex14LockWhenCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutEb(
          mutex, condition, timeout, write);
  __tsan_acquire(mutex);
  return met;
}

bool __wrap__ZN4absl7debian77CondVar10WaitCommonEPNS0_5MutexENS0_24synchronization_internal13KernelTimeoutE(
    void* condvar, void* mutex, uint64_t timeout) {
  __tsan_release(mutex);
  const bool timed_out =
      __real__ZN4absl7debian77CondVar10WaitCommonEPNS0_5MutexENS0_24synchronization_internal13KernelTimeoutE(
          condvar, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

void __wrap__ZN4absl7debian712Notification6NotifyEv(void* notification) {
  __tsan_release(notification);
  __real__ZN4absl7debian712Notification6NotifyEv(notification);
}

void __wrap__ZNK4absl7debian712Notification19WaitForNotificationEv(const void* notification) {
  __real__ZNK4absl7debian712Notification19WaitForNotificationEv(notification);
  __tsan_acquire(const_cast<void*>(notification));
}

}  // extern "C"
