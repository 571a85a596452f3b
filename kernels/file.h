// A file to be read, with the size and time it has once that is done.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ecg {

// An open file; closed when it goes out of scope.
class File {
public:
    // Opens without waiting (a FIFO would); error() is errno where that failed.
    explicit File(const char* path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    int error() const { return error_; }
    bool is_regular() const { return is_regular_; }
    int64_t n_bytes() const { return n_bytes_; }
    int64_t modified_ns() const { return modified_ns_; }

    // The next n bytes, fewer where the file ends; -1 and error() where it cannot be read.
    // Size and time are those of afterwards: a file that is written to meanwhile must not pass for the one before.
    int64_t read(char* to, size_t n);

private:
    void look();

    int handle_;
    int error_ = 0;
    bool is_regular_ = false;
    int64_t n_bytes_ = 0;
    int64_t modified_ns_ = 0;
};

}  // namespace ecg
