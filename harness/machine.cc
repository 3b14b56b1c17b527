// SPDX-License-Identifier: Apache-2.0
#include "harness/machine.h"

#include <benchmark/benchmark.h>
#include <dlfcn.h>
#include <elf.h>
#include <hwloc.h>
#include <link.h>
#include <omp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <sstream>

#include "harness/case.h"
#include "harness/ceilings.h"
#include "hwy/base.h"
#include "kernels/contract/kernel.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

using nlohmann::json;

std::string Trimmed(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())))
    text.erase(text.begin());
  return text;
}

// The first line of a file; null when it cannot be read.
json FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return nullptr;
  return Trimmed(line);
}

// The value of "key : value" in a file of such lines.
json Field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.rfind(key, 0) == 0)
      if (const auto colon = line.find(':'); colon != std::string::npos)
        return Trimmed(line.substr(colon + 1));
  return nullptr;
}

// What a command prints, without its last line break; empty when it fails.
std::string OutputOf(const std::string& command) {
  std::FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return "";
  std::string text;
  char buffer[256];
  while (std::size_t n = std::fread(buffer, 1, sizeof(buffer), pipe)) text.append(buffer, n);
  return pclose(pipe) == 0 ? Trimmed(text) : "";
}

std::string Git(const std::string& arguments) {
  return OutputOf("git -C '" ATTNBENCH_SOURCE_DIR "' " + arguments);
}

// Data and unified caches by hwloc, level 1 first, of the first core.
struct Cache {
  int level;
  std::size_t bytes;
  int cores;
};
std::vector<Cache> Caches() {
  std::vector<Cache> caches;
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology) != 0) return caches;
  if (hwloc_topology_load(topology) == 0) {
    hwloc_obj_t at = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PU, 0);
    for (; at; at = at->parent)
      if (hwloc_obj_type_is_dcache(at->type))
        caches.push_back({static_cast<int>(at->attr->cache.depth), at->attr->cache.size,
                          std::max(1, hwloc_get_nbobjs_inside_cpuset_by_type(topology, at->cpuset,
                                                                             HWLOC_OBJ_CORE))});
  }
  hwloc_topology_destroy(topology);
  return caches;
}
const std::vector<Cache>& CachedCaches() {
  static const std::vector<Cache> caches = Caches();
  return caches;
}

std::size_t FileNumber(const char* path) {  // 0: absent or "max"
  std::ifstream file(path);
  unsigned long long value = 0;
  return file >> value ? value : 0;
}

// Of the control groups that this process is in, and of the root that a container sees.
std::vector<std::string> MemoryLimitFiles() {
  const std::string root = "/sys/fs/cgroup", v1 = "/memory", v1_file = "/memory.limit_in_bytes",
                    v2_file = "/memory.max";
  std::vector<std::string> files = {root + v2_file, root + v1 + v1_file};
  std::ifstream groups("/proc/self/cgroup");  // hierarchy:controllers:path
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1),
                      path = line.substr(second + 1);
    if (controllers.empty()) files.push_back(root + path + v2_file);
    if (("," + controllers + ",").find(",memory,") != std::string::npos)
      files.push_back(root + v1 + path + v1_file);
  }
  return files;
}

json CgroupLimits() {
  const json v1_quota = FirstLine("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  return {{"memory_max", FirstLine("/sys/fs/cgroup/memory.max")},
          {"cpu_max", FirstLine("/sys/fs/cgroup/cpu.max")},
          {"memory_limit_v1", FirstLine("/sys/fs/cgroup/memory/memory.limit_in_bytes")},
          {"cpu_quota_us_v1", v1_quota}};
}

json Turbo() {
  if (json boost = FirstLine("/sys/devices/system/cpu/cpufreq/boost"); boost.is_string())
    return boost == "1";
  if (json off = FirstLine("/sys/devices/system/cpu/intel_pstate/no_turbo"); off.is_string())
    return off == "0";
  return nullptr;
}

json Limit(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return nullptr;
  return limit.rlim_cur;
}

// Finds the GNU build id in the notes of the object that holds this function.
struct BuildIdSearch {
  std::uintptr_t address;
  std::string id;
};
int SearchBuildId(dl_phdr_info* info, std::size_t, void* data) {
  auto* search = static_cast<BuildIdSearch*>(data);
  bool ours = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& ph = info->dlpi_phdr[i];
    const std::uintptr_t begin = info->dlpi_addr + ph.p_vaddr;
    ours |=
        ph.p_type == PT_LOAD && search->address >= begin && search->address < begin + ph.p_memsz;
  }
  if (!ours) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& ph = info->dlpi_phdr[i];
    if (ph.p_type != PT_NOTE) continue;
    const char* at = reinterpret_cast<const char*>(info->dlpi_addr + ph.p_vaddr);
    const char* end = at + ph.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof(note));
      const char* name = at + sizeof(note);
      const char* content = name + (note.n_namesz + 3) / 4 * 4;
      if (note.n_type == NT_GNU_BUILD_ID && std::strncmp(name, "GNU", 4) == 0)
        for (std::size_t b = 0; b < 8 && b < note.n_descsz; ++b) {
          char digits[3];
          std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(content[b]));
          search->id += digits;
        }
      at = content + (note.n_descsz + 3) / 4 * 4;
    }
  }
  return 1;
}

json KernelTargets() {
  json targets = json::object();
  for (const auto& kernels : {Kernels(), Layers()})
    for (const Kernel* kernel : kernels)
      if (kernel->target) targets[std::string(kernel->name)] = kernel->target();
  return targets;
}

std::string IsoTime() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

}  // namespace

std::vector<int> CpusAllowed() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

std::vector<std::size_t> DataCacheBytes() {
  std::vector<std::size_t> sizes;
  for (const Cache& cache : CachedCaches()) sizes.push_back(cache.bytes);
  return sizes;
}

std::size_t LastLevelCacheBytes() {
  const auto sizes = DataCacheBytes();
  return sizes.empty() ? std::size_t{32} << 20 : *std::max_element(sizes.begin(), sizes.end());
}

std::size_t MemoryLimitBytes() {
  std::size_t limit = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
                      static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (const std::string& file : MemoryLimitFiles())
    if (const std::size_t other = FileNumber(file.c_str()); other > 0)
      limit = std::min(limit, other);
  for (auto resource : {RLIMIT_AS, RLIMIT_DATA})
    if (const json value = Limit(resource); !value.is_null())
      limit = std::min(limit, value.get<std::size_t>());
  return limit;
}

std::string BuildId() {
  static const std::string id = [] {
    BuildIdSearch search{.address = reinterpret_cast<std::uintptr_t>(&SearchBuildId), .id = {}};
    dl_iterate_phdr(SearchBuildId, &search);
    if (!search.id.empty()) return search.id;
    Dl_info info;  // linked without a build id: hash the file
    if (!dladdr(reinterpret_cast<void*>(&SearchBuildId), &info)) return std::string("unknown");
    std::ifstream file(info.dli_fname, std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    return HashText(content.str());
  }();
  return id;
}

std::string GitCommit() {
  static const std::string commit = [] {
    const std::string head = Git("rev-parse HEAD");
    if (head.empty()) return head;
    return head + (Git("status --porcelain --untracked-files=no").empty() ? "" : "+dirty");
  }();
  return commit;
}

std::string MachineName() {
  const json model = Field("/proc/cpuinfo", "model name");
  std::string name;
  for (const char c : model.is_string() ? model.get<std::string>() : std::string("cpu")) {
    if (std::isalnum(static_cast<unsigned char>(c)))
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    else if (!name.empty() && name.back() != '-')
      name += '-';
  }
  while (!name.empty() && name.back() == '-') name.pop_back();
  return name + "-" + std::to_string(CpusAllowed().size()) + "c";
}

json DescribeEnvironment(int argc, char** argv, std::uint64_t seed) {
  json caches = json::array();
  for (const Cache& cache : CachedCaches())
    caches.push_back({{"level", cache.level}, {"bytes", cache.bytes}, {"cores", cache.cores}});
  utsname kernel{};
  uname(&kernel);
  const std::string commit = GitCommit();
  std::ostringstream openmp;
  openmp << _OPENMP;
  const unsigned hwloc = hwloc_get_api_version();
  std::vector<std::string> arguments(argv, argv + argc);
  if (argc > 0)  // where it is installed says nothing about the run
    arguments[0] = arguments[0].substr(arguments[0].rfind('/') + 1);
  return {
      {"started", IsoTime()},
      {"argv", arguments},
      {"seed", seed},
      {"machine", MachineName()},
      {"cpu",
       {{"model", Field("/proc/cpuinfo", "model name")},
        {"family", Field("/proc/cpuinfo", "cpu family")},
        {"model_number", Field("/proc/cpuinfo", "model\t")},
        {"stepping", Field("/proc/cpuinfo", "stepping")},
        {"microcode", Field("/proc/cpuinfo", "microcode")},
        {"mhz", Field("/proc/cpuinfo", "cpu MHz")},
        {"flags", Field("/proc/cpuinfo", "flags")},
        {"online", sysconf(_SC_NPROCESSORS_ONLN)},
        {"allowed", CpusAllowed()},
        {"hypervisor",
         Field("/proc/cpuinfo", "flags").dump().find("hypervisor") != std::string::npos}}},
      {"caches", caches},
      {"governor", FirstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")},
      {"turbo", Turbo()},
      {"smt", FirstLine("/sys/devices/system/cpu/smt/active")},
      {"transparent_hugepage", FirstLine("/sys/kernel/mm/transparent_hugepage/enabled")},
      {"load_average", FirstLine("/proc/loadavg")},
      {"memory_bytes", static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                           static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE))},
      {"memory_limit_bytes", MemoryLimitBytes()},
      {"cgroup", CgroupLimits()},
      {"rlimit_data", Limit(RLIMIT_DATA)},
      {"os", {{"system", kernel.sysname}, {"release", kernel.release}, {"arch", kernel.machine}}},
      {"compiler",
       {{"name", "g++ " __VERSION__},
        {"flags", ATTNBENCH_CXX_FLAGS},
        {"build_type", ATTNBENCH_BUILD_TYPE},
        {"sanitize", ATTNBENCH_SANITIZE}}},
      {"git", commit.empty() ? json(nullptr)
                             : json{{"commit", commit.substr(0, commit.find('+'))},
                                    {"dirty", commit.find('+') != std::string::npos}}},
      {"version", ATTNBENCH_VERSION},
      {"build", BuildId()},
      {"libraries",
       {{"highway", std::to_string(HWY_MAJOR) + "." + std::to_string(HWY_MINOR) + "." +
                        std::to_string(HWY_PATCH)},
        {"hwloc", std::to_string(hwloc >> 16) + "." + std::to_string((hwloc >> 8) & 255) + "." +
                      std::to_string(hwloc & 255)},
        {"openmp", openmp.str()},
        {"nlohmann_json", std::to_string(NLOHMANN_JSON_VERSION_MAJOR) + "." +
                              std::to_string(NLOHMANN_JSON_VERSION_MINOR)}}},
      {"notes", json::array({"Debian builds Google Benchmark without NDEBUG, so it calls itself "
                             "DEBUG; its loop is not inside the samples"})},
      {"target", DispatchedTarget()},
      {"bf16_dot_native", NativeBf16Dot()},
      {"kernel_targets", KernelTargets()}};
}

}  // namespace attnbench
