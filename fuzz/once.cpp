// A target without libFuzzer: run on inputs of random bytes, as many as the argument says.
#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t n);

int main(int, char** arguments) {
    std::mt19937 random(1);
    for (long left = std::atol(arguments[1]); left > 0; --left) {
        std::vector<uint8_t> bytes(random() % 4096);
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
}
