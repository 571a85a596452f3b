// Functions marked ECG_CLONES are compiled for several x86-64 levels; the loader picks the machine's best.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(ECG_SANITIZE)
#define ECG_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ECG_CLONES
#endif
