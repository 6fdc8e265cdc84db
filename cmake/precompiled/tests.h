// What most tests include, of others only: see MoePrecompiled.cmake.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libraries.h"
