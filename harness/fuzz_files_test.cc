// SPDX-License-Identifier: Apache-2.0
// Mutated experiment files and record lines: each is read, or refused with one line, and quickly.
// What is read, from which seeds: harness/fuzzing/ (what broke something once is put there), where
// the coverage-guided fuzzers of the same readers are. ATTNBENCH_FUZZ_SECONDS (default 2) lasts
// longer, ATTNBENCH_FUZZ_SEED repeats a run.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "harness/fuzzing/readers.h"
#include "harness/inputs.h"

namespace attnbench {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

class Mutator {
 public:
  Mutator(std::vector<std::string> seeds, std::vector<std::string> words, std::uint64_t seed)
      : seeds_(std::move(seeds)), words_(std::move(words)), random_(seed) {}

  std::string Next() {
    std::string text = Pick(seeds_);
    for (Index n = random_.Between(1, 3); n > 0; --n) Mutate(&text);
    return text;
  }

 private:
  const std::string& Pick(const std::vector<std::string>& of) {
    return of[static_cast<std::size_t>(random_.Below(std::ssize(of)))];
  }
  std::size_t Place(const std::string& text) {
    return static_cast<std::size_t>(random_.Below(std::ssize(text) + 1));
  }

  void Mutate(std::string* text) {
    const std::size_t at = Place(*text), length = static_cast<std::size_t>(random_.Between(1, 40));
    switch (random_.Below(7)) {
      case 0:  // another byte
        if (at < text->size()) (*text)[at] = static_cast<char>(random_.Below(256));
        break;
      case 1:
        text->erase(std::min(at, text->size()), length);
        break;
      case 2:  // the same again, elsewhere
        text->insert(Place(*text), text->substr(std::min(at, text->size()), length));
        break;
      case 3:
        text->insert(at, Pick(words_));
        break;
      case 4: {  // the rest of another
        const std::string& other = Pick(seeds_);
        *text = text->substr(0, at) + other.substr(Place(other));
        break;
      }
      case 5:  // cut off
        text->resize(at);
        break;
      case 6: {  // another word in the place of a number
        const std::size_t digit = text->find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        const std::size_t end = text->find_first_not_of("0123456789.e+-", digit);
        text->replace(digit, end - digit, Pick(words_));
        break;
      }
    }
  }

  std::vector<std::string> seeds_, words_;
  Random random_;
};

std::uint64_t Seed() {
  return FromEnvironment("ATTNBENCH_FUZZ_SEED",
                         static_cast<std::uint64_t>(
                             std::chrono::system_clock::now().time_since_epoch().count() / 1000));
}

// Reads the seeds, of which so many from the start must be taken, then mutants until the time is
// up.
void Fuzz(const FuzzStart& start, const Reader& read, std::size_t whole) {
  const std::vector<std::string> seeds = SeedsOf(start);
  ASSERT_GE(seeds.size(), whole);
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    const Reading reading = read(seeds[i]);
    EXPECT_EQ(reading.wrong, "") << seeds[i];
    EXPECT_FALSE(i < whole && reading.refused) << seeds[i];
  }
  const std::uint64_t seed = Seed();
  Mutator mutator(seeds, WordsOf(start), seed);
  const double seconds = static_cast<double>(FromEnvironment("ATTNBENCH_FUZZ_SECONDS", 2));
  const auto begin = Clock::now();
  std::size_t inputs = 0, refused = 0;
  for (; Since(begin) < seconds; ++inputs) {
    const std::string text = mutator.Next();
    const Reading reading = read(text);
    refused += reading.refused;
    ASSERT_EQ(reading.wrong, "") << "seed " << seed << ", input " << inputs << ":\n" << text;
  }
  std::printf("fuzzed %zu inputs from seed %llu, %zu of them refused\n", inputs,
              static_cast<unsigned long long>(seed), refused);
  EXPECT_GT(inputs, 0u);
}

TEST(FuzzFiles, AnExperimentIsReadOrRefusedWithOneLine) {
  Fuzz(ExperimentStart(), ExperimentReader(), 4);
}

TEST(FuzzFiles, RecordsOfAnyContentAreTakenUp) { Fuzz(RecordsStart(), RecordsReader(), 3); }

TEST(FuzzFiles, DictionariesAreReadAsTheFuzzersReadThem) {
  for (const FuzzStart& start : {ExperimentStart(), RecordsStart()}) {
    const std::vector<std::string> words = WordsOf(start);
    for (const char* word : {"\n", "\"", "\"\"", "-1"})
      EXPECT_NE(std::find(words.begin(), words.end(), word), words.end()) << word;
    for (const std::string& word : words) EXPECT_EQ(word.find('\\'), std::string::npos) << word;
  }
}

}  // namespace
}  // namespace attnbench
