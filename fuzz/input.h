// What the targets share: numbers taken from the front of an input, and a claim that must hold.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

// A target's body, called with one input; whatever it takes for granted, `module.cpp` or a decoder has checked.
#define FUZZ(input) static void target(Input input); \
    extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t n) { return target(Input{data, n}), 0; } \
    static void target(Input input)

inline void check(bool holds) {
    if (!holds) __builtin_trap();
}

// The bytes that are left of an input.
struct Input {
    const uint8_t* data;
    size_t n;

    std::string_view text() const { return {reinterpret_cast<const char*>(data), n}; }

    // The number in the next bytes, lowest first; those that are missing are zeros.
    template <class T>
    T take() {
        T value{};
        const size_t taken = std::min(sizeof(T), n);
        if (taken) std::memcpy(&value, data, taken);
        data += taken;
        n -= taken;
        return value;
    }

    // From low to high.
    int64_t between(int64_t low, int64_t high) { return low + take<uint16_t>() % (high - low + 1); }
};
