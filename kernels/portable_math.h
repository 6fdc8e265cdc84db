// Elementary functions in double that return the same bits on every CPU. The C library's choose
// their code by the CPU, and two of its variants may differ in the last bit.
#ifndef MOE_KERNELS_PORTABLE_MATH_H_
#define MOE_KERNELS_PORTABLE_MATH_H_

namespace moe::kernels {

// Natural logarithm, relative error below 2^-50. REQUIRES: x is finite, normal and > 0.
double PortableLog(double x);
// Relative error below 2^-49. REQUIRES: |x| <= 700.
double PortableExp(double x);

struct SinCos {
  double sin;
  double cos;
};
// Absolute error below 2^-49. REQUIRES: 0 <= x <= 2^20.
SinCos PortableSinCos(double x);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_PORTABLE_MATH_H_
