// SPDX-License-Identifier: Apache-2.0
#include "harness/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "harness/machine.h"
#include "harness/record.h"
#include "harness/user_error.h"

namespace attnbench {

namespace fs = std::filesystem;

namespace {
constexpr char kLock[] = ".lock";
constexpr char kRun[] = "run.json";
}  // namespace

RunDirectory::RunDirectory(RunDirectory&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

RunDirectory::~RunDirectory() {
  if (lock_ < 0) return;
  unlink(File(kLock).c_str());  // before the lock is let go: nobody can hold it by then
  close(lock_);
}

RunDirectory RunDirectory::Create(const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error)) {
    if (!fs::is_directory(path, error)) throw UserError(path + ": exists and is no folder");
    if (fs::exists(fs::path(path) / kLock, error)) {
      RunDirectory probe(path);
      probe.Lock();  // says who writes there; a lock left over by a killed sweep is taken
    }
    if (!fs::is_empty(path, error) || error)
      throw UserError(path + ": is not empty; --resume " + path +
                      " continues a run, -o takes a new or empty folder");
  }
  fs::create_directories(path, error);
  if (error) throw UserError(path + ": cannot be created: " + error.message());
  RunDirectory directory(path);
  directory.Lock();
  return directory;
}

RunDirectory RunDirectory::Open(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) throw UserError(path + ": no such run directory");
  if (!fs::exists(fs::path(path) / kRun, error))
    throw UserError(path + ": holds no run (no " + kRun + ")");
  RunDirectory directory(path);
  directory.Lock();
  return directory;
}

void RunDirectory::Lock() {
  const std::string file = File(kLock);
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) throw UserError(path_ + ": cannot be written: " + std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    char owner[32] = "";
    if (pread(lock_, owner, sizeof(owner) - 1, 0) < 0) owner[0] = '\0';
    close(lock_);
    lock_ = -1;
    throw UserError(path_ + ": another sweep" +
                    (owner[0] ? " (process " + std::string(owner) + ")" : "") +
                    " is writing there");
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(lock_, 0) != 0 || pwrite(lock_, pid.data(), pid.size(), 0) < 0)
    return;  // the owner's number is a courtesy
}

void RunDirectory::Write(const std::string& name, const std::string& text) const {
  const std::string final_path = File(name), partial = final_path + ".part";
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const auto fail = [&] {
    const std::string why = std::strerror(errno);
    if (fd >= 0) close(fd);
    unlink(partial.c_str());
    throw std::runtime_error(final_path + ": cannot be written: " + why);
  };
  if (fd < 0) fail();
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail();
    done += static_cast<std::size_t>(n);
  }
  if (fsync(fd) != 0) fail();
  close(fd);
  if (rename(partial.c_str(), final_path.c_str()) != 0)
    throw std::runtime_error(final_path + ": cannot be written: " + std::strerror(errno));
}

nlohmann::json RunDirectory::ReadRun() const {
  std::ifstream in(File(kRun));
  auto run = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!run.is_object() || !run.contains("cases"))
    throw UserError(File(kRun) + ": is damaged; the run cannot be resumed");
  return run;
}

std::string DefaultRunPath(const std::string& experiment) {
  const std::string base = "results/" + experiment + "/" + MachineName() + "/" + UtcNowCompact();
  std::string path = base;
  std::error_code error;
  for (int i = 2; fs::exists(path, error); ++i) path = base + "-" + std::to_string(i);
  return path;
}

}  // namespace attnbench
