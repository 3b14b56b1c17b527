// SPDX-License-Identifier: Apache-2.0
// What must hold of any text that is read as an experiment file or as the records of a run: it is
// taken, or refused with one line. For the test that mutates seeds and for the coverage-guided
// fuzzers, which start from the same seeds and words.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace attnbench {

struct Reading {
  bool refused = false;
  std::string wrong = {};  // empty, or what must not be
};

// Both keep the text in a file under the temporary folder, as it is from files that they read.
using Reader = std::function<Reading(const std::string& text)>;
Reader ExperimentReader();  // every case of it survives its own JSON
Reader RecordsReader();     // a run of two cases, "a" and "b", of build "fuzzed" that is resumed

// Relative to the source tree: where fuzzing starts from, and the words that it puts in.
struct FuzzStart {
  std::vector<std::string> folders;
  std::string extension;   // of the seeds in them
  std::string dictionary;  // a word a line, name="text" with \" \\ \xNN
};
FuzzStart ExperimentStart();
FuzzStart RecordsStart();
std::vector<std::string> SeedsOf(const FuzzStart& start);
std::vector<std::string> WordsOf(const FuzzStart& start);

}  // namespace attnbench
