#include "file.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ecg {

File::File(const char* path) {
    do {
        handle_ = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (handle_ < 0 && errno == EINTR);
    if (handle_ < 0) {
        error_ = errno;
    } else {
        look();
    }
}

File::~File() {
    if (handle_ >= 0) close(handle_);
}

void File::look() {
    struct stat status;
    if (fstat(handle_, &status) != 0) {
        error_ = errno;
        return;
    }
    is_regular_ = S_ISREG(status.st_mode);
    n_bytes_ = status.st_size;
    modified_ns_ = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

int64_t File::read(char* to, size_t n) {
    size_t done = 0;
    while (done < n) {
        const ssize_t part = ::read(handle_, to + done, n - done);
        if (part < 0 && errno == EINTR) continue;
        if (part < 0) {
            error_ = errno;
            return -1;
        }
        if (part == 0) break;
        done += static_cast<size_t>(part);
    }
    look();
    return error_ ? -1 : static_cast<int64_t>(done);
}

}  // namespace ecg
