#include "services/registry/store_format.h"

#include <fstream>

#include "lib/base/release.h"
#include "lib/wire/bus.h"
#include "services/registry/server.h"
#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using testing::HasSubstr;
using Found = std::optional<StoreFormat>;

const std::string kOurs(kRelease);

void write_file(const Folder& folder, const std::string& text) { std::ofstream(folder.path() / "format") << text; }

std::string file_of(const Folder& folder) {
  std::ifstream file(folder.path() / "format");
  return {std::istreambuf_iterator<char>(file), {}};
}

Found found_in(const Folder& folder, int ours) {
  auto found = check_format(folder.path(), ours);
  EXPECT_TRUE(found) << found.error().message;
  return found.value_or(std::nullopt);
}

// Migrations up to `last` that note what they do; the one to `dies_in` fails, as a process that ends there.
struct Steps {
  std::vector<int> run;
  std::vector<Migration> all;

  explicit Steps(int last, int dies_in = 0) {
    for (int to = 2; to <= last; ++to) {
      all.push_back({.to = to, .run = [this, to, dies_in]() -> Result<void> {
                       run.push_back(to);
                       if (to == dies_in) return fail(Code::kInternal, "died");
                       return {};
                     }});
    }
  }
};

TEST(StoreFormat, OfANewFolderIsOurs) {
  const Folder folder;
  EXPECT_EQ(found_in(folder, kStoreFormat), std::nullopt);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "looking writes nothing";
  ASSERT_TRUE(settle_format(folder.path(), std::nullopt, {}));
  EXPECT_EQ(found_in(folder, kStoreFormat),
            (StoreFormat{.number = kStoreFormat, .migrating_from = {}, .release = kOurs}));
}

TEST(StoreFormat, StaysAsItIsWhileItIsKnown) {
  const Folder folder;
  write_file(folder, "format = 1\nrelease = \"0.0.1\"\nmood = \"of a later release\"\n");
  const std::string before = file_of(folder);
  ASSERT_TRUE(settle_format(folder.path(), found_in(folder, 1), {}, 1));
  EXPECT_EQ(file_of(folder), before);
}

TEST(StoreFormat, OfALaterReleaseIsRefusedByTheReleaseThatItNeeds) {
  const Folder folder;
  write_file(folder, "format = 3\nrelease = \"7.1.0\"\n");
  const auto refused = check_format(folder.path(), 2);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("is of format 3"));
  EXPECT_THAT(refused.error().message, HasSubstr("knows formats up to 2"));
  EXPECT_THAT(refused.error().message, HasSubstr("needs release 7.1.0"));
}

TEST(StoreFormat, IsMigratedStepByStep) {
  const Folder folder;
  write_file(folder, "format = 1\nrelease = \"0.0.1\"\n");
  Steps steps(3);
  ASSERT_TRUE(settle_format(folder.path(), found_in(folder, 3), steps.all, 3));
  EXPECT_EQ(steps.run, (std::vector{2, 3}));
  EXPECT_EQ(found_in(folder, 3), (StoreFormat{.number = 3, .migrating_from = {}, .release = kOurs}));

  ASSERT_TRUE(settle_format(folder.path(), found_in(folder, 3), steps.all, 3));
  EXPECT_EQ(steps.run.size(), 2U) << "once";
}

TEST(StoreFormat, OfAMigrationThatDiedIsRefusedByTheEarlierReleaseAndFinishedByTheLaterOne) {
  const Folder folder;
  write_file(folder, "format = 1\nrelease = \"0.0.1\"\n");
  Steps dying(3, 3);
  EXPECT_FALSE(settle_format(folder.path(), found_in(folder, 3), dying.all, 3));
  EXPECT_EQ(dying.run, (std::vector{2, 3}));

  for (const int earlier : {1, 2}) {
    const auto refused = check_format(folder.path(), earlier);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kUnsupported);
    EXPECT_THAT(refused.error().message, HasSubstr("is on its way to be of format 3"));
    EXPECT_THAT(refused.error().message, HasSubstr("needs release " + kOurs));
  }

  Steps again(3);
  ASSERT_TRUE(settle_format(folder.path(), found_in(folder, 3), again.all, 3));
  EXPECT_EQ(again.run, (std::vector{3})) << "the step that was done stays done";
  EXPECT_EQ(found_in(folder, 3)->migrating_from, std::nullopt);
}

TEST(StoreFormat, OfADamagedFileIsNotGuessed) {
  for (const char* text : {"", "format = \n", "format = 1\n", "format = -1\nrelease = \"1\"\n", "release = \"1\"\n",
                           "format = 1x\nrelease = \"1\"\n", "format = 2\nrelease = \"1\"\nmigrating-from = 2\n",
                           "format = 2\nrelease = \"1\"\nmigrating-from = x\n"}) {
    const Folder folder;
    write_file(folder, text);
    const auto refused = check_format(folder.path(), 2);
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().code, Code::kDataLoss);
  }
}

ServerOptions options_for(const Folder& folder) {
  ServerOptions options;
  options.data_dir = folder.path();
  options.calls_address = options.events_address = "127.0.0.1:0";
  return options;
}

TEST(StoreFormat, OfALaterReleaseStopsTheRegistryBeforeItWritesAnything) {
  const Folder folder;
  {
    Bus bus;
    auto server = Server::start(bus, options_for(folder));
    ASSERT_TRUE(server) << server.error().message;
    (*server)->stop();
  }
  EXPECT_THAT(file_of(folder), HasSubstr("format = 1"));
  write_file(folder, std::format("format = {}\nrelease = \"99.0.0\"\n", kStoreFormat + 1));

  const auto listing = [&] {
    std::map<std::string, std::filesystem::file_time_type> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
      files[entry.path().string()] = entry.last_write_time();
    }
    return files;
  };
  const auto before = listing();
  Bus bus;
  auto server = Server::start(bus, options_for(folder));
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().code, Code::kUnsupported);
  EXPECT_THAT(server.error().message, HasSubstr("needs release 99.0.0"));
  EXPECT_EQ(listing(), before);
}

}  // namespace
}  // namespace slipway::registry
