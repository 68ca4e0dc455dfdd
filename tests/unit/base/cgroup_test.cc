#include "lib/base/cgroup.h"

#include <gmock/gmock.h>

#include <fstream>
#include <map>

#include "lib/base/machine.h"
#include "lib/base/random_id.h"
#include "tests/unit/base/own_cgroup.h"

namespace slipway {
namespace {

namespace fs = std::filesystem;
using testing::Optional;

constexpr std::uint64_t kMiB = 1 << 20;

// A folder that stands for "/", with files in it.
class Root {
 public:
  explicit Root(const std::map<std::string, std::string>& files) {
    for (const auto& [name, text] : files) write(name, text);
  }
  ~Root() { fs::remove_all(path); }
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;

  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text;
  }

  const fs::path path = testing::TempDir() + "slipway-root-" + random_hex(64);
};

const std::string kV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string kDisk = "23 1 8:1 / / rw,relatime - ext4 /dev/root rw\n";
const std::string kV1NoLimit = "9223372036854771712\n";

struct Case {
  std::string name;
  std::map<std::string, std::string> files;
  CgroupLimits wanted;
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

class ReadCgroup : public testing::TestWithParam<Case> {};

TEST_P(ReadCgroup, FindsTheSmallestLimitThatIsMounted) {
  const Root root(GetParam().files);
  const CgroupLimits found = read_cgroup(root.path);
  EXPECT_EQ(found.cores, GetParam().wanted.cores);
  EXPECT_EQ(found.memory_bytes, GetParam().wanted.memory_bytes);
  EXPECT_EQ(found.memory_left, GetParam().wanted.memory_left);
}

INSTANTIATE_TEST_SUITE_P(
    Machines, ReadCgroup,
    testing::Values(
        Case{"Nothing", {}, {}},
        Case{"V2WithoutLimits",
             {{"proc/self/cgroup", "0::/a\n"},
              {"proc/self/mountinfo", kDisk + kV2},
              {"sys/fs/cgroup/a/cpu.max", "max 100000\n"},
              {"sys/fs/cgroup/a/memory.max", "max\n"},
              {"sys/fs/cgroup/a/memory.current", "5\n"}},
             {}},
        Case{"V2InANamespace",  // as a container sees it: its own group is the mount's root
             {{"proc/self/cgroup", "0::/\n"},
              {"proc/self/mountinfo", kDisk + kV2},
              {"sys/fs/cgroup/cpu.max", "150000 100000\n"},
              {"sys/fs/cgroup/memory.max", "536870912\n"},
              {"sys/fs/cgroup/memory.current", "209715200\n"},
              {"sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 104857600\n"}},
             {1.5, 512 * kMiB, 412 * kMiB}},
        Case{"V2Ancestors",  // the quota is the parent's, the memory the grandparent's
             {{"proc/self/cgroup", "0::/pods/pod1/main\n"},
              {"proc/self/mountinfo", kDisk + kV2},
              {"sys/fs/cgroup/pods/memory.max", "1048576\n"},
              {"sys/fs/cgroup/pods/memory.current", "2097152\n"},
              {"sys/fs/cgroup/pods/pod1/cpu.max", "50000 100000\n"},
              {"sys/fs/cgroup/pods/pod1/memory.max", "2097152\n"},
              {"sys/fs/cgroup/pods/pod1/memory.current", "1048576\n"},
              {"sys/fs/cgroup/pods/pod1/main/cpu.max", "400000 100000\n"},
              {"sys/fs/cgroup/pods/pod1/main/memory.max", "max\n"},
              {"sys/fs/cgroup/other/cpu.max", "1000 100000\n"}},
             {0.5, kMiB, 0}},
        Case{"V2PartOfItMounted",  // the names above the mount's root are not in its paths
             {{"proc/self/cgroup", "0::/pods/pod1/main\n"},
              {"proc/self/mountinfo", "30 23 0:26 /pods/pod1 /cg rw - cgroup2 cgroup2 rw\n"},
              {"cg/cpu.max", "300000 100000\n"},
              {"cg/main/cpu.max", "250000 100000\n"}},
             {2.5, {}, {}}},
        Case{"V2MountedOutsideOfTheNamespace",
             {{"proc/self/cgroup", "0::/main\n"},
              {"proc/self/mountinfo", "30 23 0:26 /../.. /cg rw - cgroup2 cgroup2 rw\n"},
              {"cg/memory.max", "1048576\n"},
              {"cg/main/memory.max", "4096\n"}},  // another's of that name
             {{}, kMiB, {}}},
        Case{"V2OutsideOfTheNamespace",
             {{"proc/self/cgroup", "0::/../other\n"},
              {"proc/self/mountinfo", kV2},
              {"sys/fs/cgroup/memory.max", "1048576\n"}},
             {}},
        Case{"V2PartOfAnother",  // "/pods/pod10" is not below "/pods/pod1"
             {{"proc/self/cgroup", "0::/pods/pod10\n"},
              {"proc/self/mountinfo", "30 23 0:26 /pods/pod1 /cg rw - cgroup2 cgroup2 rw\n"},
              {"cg/memory.max", "1048576\n"}},
             {}},
        Case{"V2ASpaceInTheMountPoint",
             {{"proc/self/cgroup", "0::/\n"},
              {"proc/self/mountinfo", "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n"},
              {"my groups/cpu.max", "200000 100000\n"}},
             {2, {}, {}}},
        Case{"V1InAContainer",  // the group's path outside is the mount's root
             {{"proc/self/cgroup", "5:memory:/kubepods/pod1/c\n4:cpu,cpuacct:/kubepods/pod1/c\n1:name=systemd:/\n"},
              {"proc/self/mountinfo",
               "33 31 0:29 /kubepods/pod1/c /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
               "35 31 0:32 /kubepods/pod1/c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"},
              {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "175000\n"},
              {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000\n"},
              {"sys/fs/cgroup/memory/memory.limit_in_bytes", kV1NoLimit},
              {"sys/fs/cgroup/memory/memory.usage_in_bytes", "1048576\n"},
              {"sys/fs/cgroup/memory/memory.stat",
               "cache 1\ntotal_inactive_file 524288\nhierarchical_memory_limit 4194304\n"}},
             {3.5, 4 * kMiB, 7 * kMiB / 2}},
        Case{"V1Ancestors",
             {{"proc/self/cgroup", "5:memory:/a/b\n4:cpu:/a/b\n0::/\n"},
              {"proc/self/mountinfo",
               "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
               "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
              {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
              {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
              {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "120000\n"},
              {"sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"},
              {"sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "-1\n"},
              {"sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us", "100000\n"},
              {"sys/fs/cgroup/memory/memory.limit_in_bytes", kV1NoLimit},
              {"sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2097152\n"},
              {"sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1048576\n"},
              {"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "3145728\n"},
              {"sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "4096\n"}},
             {1.2, 2 * kMiB, kMiB}},
        Case{
            "V1NamesOfOutsideOnly",  // a container that sees its groups at the mount's root, and their names of outside
            {{"proc/self/cgroup", "5:memory:/docker/abc\n"},
             {"proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"},
             {"sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n"},
             {"sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n"}},
            {{}, kMiB, kMiB}},
        Case{"Hybrid",  // the controllers are v1's, and a v2 hierarchy without any is mounted beside
             {{"proc/self/cgroup", "5:memory:/a\n4:cpu:/\n0::/a\n"},
              {"proc/self/mountinfo",
               "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
               "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
               "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"},
              {"sys/fs/cgroup/unified/a/cgroup.procs", "1\n"},
              {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
              {"sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1048576\n"}},
             {{}, kMiB, {}}},
        Case{"Garbage",
             {{"proc/self/cgroup", "\n0:\nnonsense\n0::/a\n"},
              {"proc/self/mountinfo", "- cgroup2\n30 23 - cgroup2 cgroup2 rw\n" + kV2},
              {"sys/fs/cgroup/a/cpu.max", "100000 0\n"},
              {"sys/fs/cgroup/a/memory.max", "99999999999999999999999999\n"},
              {"sys/fs/cgroup/cpu.max", "many\n"},
              {"sys/fs/cgroup/memory.max", ""}},
             {}}),
    [](const testing::TestParamInfo<Case>& one) { return one.param.name; });

TEST(ProcessLimits, AreTheSmallerOfMachineAndGroup) {
  const Root root({{"proc/self/cgroup", "0::/\n"},
                   {"proc/self/mountinfo", kV2},
                   {"proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n"},
                   {"sys/fs/cgroup/cpu.max", "10000 100000\n"},
                   {"sys/fs/cgroup/memory.max", "1572864\n"},
                   {"sys/fs/cgroup/memory.current", "1048576\n"}});
  EXPECT_EQ(process_limits(root.path),
            (ProcessLimits{.cores = 0.1, .memory_bytes = 1572864, .cores_are_own = true, .memory_is_own = true}));
  EXPECT_EQ(process_limits(root.path).whole_cores(), 1);
  EXPECT_EQ(memory_left(root.path), 512U << 10);

  root.write("sys/fs/cgroup/memory.max", "4194304\n");  // more than there is
  EXPECT_EQ(process_limits(root.path),
            (ProcessLimits{.cores = 0.1, .memory_bytes = 2 * kMiB, .cores_are_own = true, .memory_is_own = false}));
  EXPECT_EQ(memory_left(root.path), kMiB);

  root.write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_FALSE(process_limits(root.path).cores_are_own);
  EXPECT_GE(process_limits(root.path).cores, 1);
}

TEST(ProcessLimits, CountWholeCoresOnly) {
  EXPECT_EQ((ProcessLimits{.cores = 0.25}).whole_cores(), 1);
  EXPECT_EQ((ProcessLimits{.cores = 1.5}).whole_cores(), 1);
  EXPECT_EQ((ProcessLimits{.cores = 3}).whole_cores(), 3);
}

TEST(ReadCgroup, SeesTheLimitsOfARealGroupAndTheirChange) {
  OwnCgroup group;
  if (!group.missing().empty()) GTEST_SKIP() << group.missing();
  group.set_memory(64 * kMiB);
  group.set_quota(150'000, 100'000);
  const CgroupLimits found = group.run([] { return read_cgroup(); });
  EXPECT_THAT(found.cores, Optional(1.5));
  EXPECT_THAT(found.memory_bytes, Optional(64 * kMiB));
  EXPECT_THAT(found.memory_left, Optional(testing::Le(64 * kMiB)));

  group.set_memory(32 * kMiB);
  group.set_quota(50'000, 100'000);
  const CgroupLimits later = group.run([] { return read_cgroup(); });
  EXPECT_THAT(later.cores, Optional(0.5));
  EXPECT_THAT(later.memory_bytes, Optional(32 * kMiB));
}

}  // namespace
}  // namespace slipway
