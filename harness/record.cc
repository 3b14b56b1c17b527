// SPDX-License-Identifier: Apache-2.0
#include "harness/record.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>

#include "harness/user_error.h"

namespace attnbench {

using nlohmann::json;

std::string RecordLine(const json& record) {
  // nlohmann dumps non-finite numbers as null; strings that are no UTF-8 (what a crashed library
  // printed) must not stop a sweep.
  return record.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string TextOf(const json& record, const char* field) {
  const auto it = record.find(field);
  return it != record.end() && it->is_string() ? it->get<std::string>() : "";
}

std::vector<std::string> FlagsOf(const json& record) {
  std::vector<std::string> flags;
  if (const auto it = record.find("flags"); it != record.end() && it->is_array())
    for (const json& flag : *it)
      if (flag.is_string()) flags.push_back(flag);
  return flags;
}

RecordsRead ReadRecords(const std::string& path) {
  RecordsRead read;
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    if (errno == ENOENT) return read;
    throw UserError(path + ": cannot be read: " + std::strerror(errno));
  }
  std::ostringstream buffer;
  buffer << in.rdbuf();
  const std::string text = buffer.str();
  std::size_t begin = 0;
  for (std::size_t line = 1; begin < text.size(); ++line) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    json record = json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                              text.begin() + static_cast<std::ptrdiff_t>(end), nullptr,
                              /*allow_exceptions=*/false);
    if (record.is_object())
      read.records.push_back(std::move(record));
    else
      read.damaged_lines.push_back(line);
    begin = end + 1;
  }
  read.whole_bytes = begin;
  read.torn_bytes = text.size() - begin;
  return read;
}

RecordsRead RepairRecords(const std::string& path, std::string* message) {
  RecordsRead read = ReadRecords(path);
  if (read.torn_bytes > 0) {
    if (truncate(path.c_str(), static_cast<off_t>(read.whole_bytes)) != 0)
      throw UserError(path + ": cannot be repaired: " + std::strerror(errno));
    *message = path + ": the last line was cut off after " + std::to_string(read.torn_bytes) +
               " bytes and is dropped; its case is measured again";
  }
  return read;
}

RecordWriter::RecordWriter(const std::string& path) : path_(path) {
  fd_ = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw UserError(path + ": cannot be written: " + std::strerror(errno));
}

RecordWriter::~RecordWriter() {
  if (fd_ >= 0) close(fd_);
}

void RecordWriter::Append(const json& record) {
  const std::string line = RecordLine(record);
  struct stat before = {};
  fstat(fd_, &before);
  std::size_t done = 0;
  int error = 0;
  while (done < line.size() && error == 0) {  // in one write, but where the disk fills up
    const ssize_t n = write(fd_, line.data() + done, line.size() - done);
    if (n > 0) done += static_cast<std::size_t>(n);
    if (n == 0) error = ENOSPC;
    if (n < 0 && errno != EINTR) error = errno;
  }
  if (error == 0) {
    if (fsync(fd_) == 0 || errno == EINVAL || errno == EROFS) return;  // pipes cannot be synced
    throw std::runtime_error(path_ + ": cannot be written to the disk: " + std::strerror(errno));
  }
  std::string taken_back;
  if (done > 0 && S_ISREG(before.st_mode) && ftruncate(fd_, before.st_size) != 0)
    taken_back = " (and its last line is cut off)";
  throw std::runtime_error(path_ + ": cannot be written: " + std::strerror(error) + taken_back);
}

namespace {

std::string Format(const char* format, std::time_t seconds) {
  std::tm utc = {};
  gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof(text), format, &utc);
  return text;
}

}  // namespace

std::string UtcNow() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  char fraction[8];
  std::snprintf(fraction, sizeof(fraction), ".%03dZ", static_cast<int>(ms % 1000));
  return Format("%Y-%m-%dT%H:%M:%S", ms / 1000) + fraction;
}

std::string UtcNowCompact() { return Format("%Y%m%dT%H%M%SZ", std::time(nullptr)); }

}  // namespace attnbench
