// SPDX-License-Identifier: Apache-2.0
#include "harness/ranks/mpi_ranks.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace attnbench {
namespace {

// MPI counts in int: longer messages go in pieces.
constexpr std::size_t kPiece = std::size_t{1} << 30;
constexpr std::size_t kExpectedPieces = 64;

int WorldRank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}
int WorldSize() {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

}  // namespace

MpiRanks::MpiRanks() : Ranks(WorldRank(), WorldSize()), counts_(4 * size()) {
  pending_.reserve(kExpectedPieces);
}

void MpiRanks::Barrier() { MPI_Barrier(MPI_COMM_WORLD); }

int MpiRanks::Broadcast(int value) {
  MPI_Bcast(&value, 1, MPI_INT, 0, MPI_COMM_WORLD);
  return value;
}

void MpiRanks::Broadcast(std::string* text) {
  text->resize(static_cast<std::size_t>(Broadcast(static_cast<int>(text->size()))));
  MPI_Bcast(text->data(), static_cast<int>(text->size()), MPI_CHAR, 0, MPI_COMM_WORLD);
}

std::vector<std::string> MpiRanks::Gather(const std::string& text) {
  const int own = static_cast<int>(text.size());
  std::vector<int> sizes(size()), begins(size());
  MPI_Gather(&own, 1, MPI_INT, sizes.data(), 1, MPI_INT, 0, MPI_COMM_WORLD);
  int total = 0;
  for (int r = 0; rank() == 0 && r < size(); ++r) begins[r] = total, total += sizes[r];
  std::string all(static_cast<std::size_t>(total), '\0');
  MPI_Gatherv(text.data(), own, MPI_CHAR, all.data(), sizes.data(), begins.data(), MPI_CHAR, 0,
              MPI_COMM_WORLD);
  std::vector<std::string> texts;
  for (int r = 0; rank() == 0 && r < size(); ++r) texts.push_back(all.substr(begins[r], sizes[r]));
  return texts;
}

int MpiRanks::PlaceOnNode() const {
  MPI_Comm node;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  int place = 0;
  MPI_Comm_rank(node, &place);
  MPI_Comm_free(&node);
  return place;
}

std::string MpiRanks::Library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text, static_cast<std::size_t>(length));
  return version.substr(0, version.find(','));
}

void MpiRanks::BeginSend(const void* data, std::size_t bytes, int to) {
  for (std::size_t at = 0; at < bytes; at += kPiece)
    MPI_Isend(static_cast<const std::byte*>(data) + at,
              static_cast<int>(std::min(kPiece, bytes - at)), MPI_BYTE, to, 0, MPI_COMM_WORLD,
              &pending_.emplace_back());
}

void MpiRanks::BeginReceive(void* data, std::size_t bytes, int from) {
  for (std::size_t at = 0; at < bytes; at += kPiece)
    MPI_Irecv(static_cast<std::byte*>(data) + at, static_cast<int>(std::min(kPiece, bytes - at)),
              MPI_BYTE, from, 0, MPI_COMM_WORLD, &pending_.emplace_back());
}

void MpiRanks::Test() {
  int done = 0;
  MPI_Testall(static_cast<int>(pending_.size()), pending_.data(), &done, MPI_STATUSES_IGNORE);
  if (done) pending_.clear();
}

void MpiRanks::WaitAll() {
  MPI_Waitall(static_cast<int>(pending_.size()), pending_.data(), MPI_STATUSES_IGNORE);
  pending_.clear();
}

void MpiRanks::ExchangeAll(const void* send, const std::size_t* send_bytes, void* receive,
                           const std::size_t* receive_bytes) {
  constexpr std::size_t kUnit = 4;
  const auto lay = [&](const std::size_t* bytes, int* counts, int* begins) {
    std::size_t at = 0;
    for (int r = 0; r < size(); ++r) {
      counts[r] = static_cast<int>(bytes[r] / kUnit);
      begins[r] = static_cast<int>(at / kUnit);
      at += bytes[r];
    }
    if (at / kUnit > std::numeric_limits<int>::max())
      throw std::runtime_error("all-to-all: over 8 GiB a rank, more than MPI counts");
  };
  int* const c = counts_.data();
  const int n = size();
  lay(send_bytes, c, c + n);
  lay(receive_bytes, c + 2 * n, c + 3 * n);
  MPI_Alltoallv(send, c, c + n, MPI_FLOAT, receive, c + 2 * n, c + 3 * n, MPI_FLOAT,
                MPI_COMM_WORLD);
}

}  // namespace attnbench
