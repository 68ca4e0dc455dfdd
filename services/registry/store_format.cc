#include "services/registry/store_format.h"

#include <spdlog/spdlog.h>

#include <charconv>
#include <format>
#include <fstream>

#include "lib/base/log.h"
#include "lib/base/release.h"
#include "services/registry/durable_file.h"

namespace slipway::registry {
namespace {

namespace fs = std::filesystem;

fs::path file_in(const fs::path& data_dir) { return data_dir / "format"; }

std::optional<int> number_in(std::string_view text) {
  int number = 0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
  return bad == std::errc() && end == text.data() + text.size() && number > 0 ? std::optional(number) : std::nullopt;
}

// Of "name = value" or "name = \"value\"".
std::optional<std::string> value_of(std::string_view line, std::string_view name) {
  if (!line.starts_with(name)) return std::nullopt;
  line.remove_prefix(name.size());
  if (!line.starts_with(" = ")) return std::nullopt;
  line.remove_prefix(3);
  if (line.size() >= 2 && line.front() == '"' && line.back() == '"') line = line.substr(1, line.size() - 2);
  return std::string(line);
}

Result<void> write(const fs::path& data_dir, const StoreFormat& format) {
  std::string text = "# Releases that know only lower numbers refuse this folder. Do not edit.\n" +
                     std::format("format = {}\nrelease = \"{}\"\n", format.number, format.release);
  if (format.migrating_from) text += std::format("migrating-from = {}\n", *format.migrating_from);

  const fs::path path = file_in(data_dir);
  return replace_synced(path, std::as_bytes(std::span(text)), path.string());
}

}  // namespace

Result<std::optional<StoreFormat>> check_format(const fs::path& data_dir, int ours) {
  const fs::path path = file_in(data_dir);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  StoreFormat format{.number = 0, .migrating_from = {}, .release = {}};
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (const auto number = value_of(line, "format")) format.number = number_in(*number).value_or(0);
    if (const auto from = value_of(line, "migrating-from")) format.migrating_from = number_in(*from).value_or(0);
    if (const auto release = value_of(line, "release")) format.release = *release;
  }
  if (format.number == 0 || format.release.empty() || format.migrating_from.value_or(1) < 1 ||
      format.migrating_from.value_or(0) >= format.number) {
    return fail(Code::kDataLoss,
                std::format("{} does not say which format the data is of: it is damaged; with the release that wrote "
                            "the data, put back the lines 'format = NUMBER' and 'release = \"RELEASE\"'",
                            path.string()));
  }
  if (format.number > ours) {
    return fail(
        Code::kUnsupported,
        std::format("the data in {} {} of format {}, and release {} knows formats up to {}: it needs release {} "
                    "or a later one; nothing has been changed. To go back, restore a backup that was made "
                    "before that release",
                    data_dir.string(), format.migrating_from ? "is on its way to be" : "is", format.number, kRelease,
                    ours, format.release));
  }
  return format;
}

Result<void> settle_format(const fs::path& data_dir, const std::optional<StoreFormat>& found,
                           std::span<const Migration> migrations, int ours) {
  const std::string release(kRelease);
  // Of data without a file: it is new, or as the first releases left it.
  int number = found ? found->migrating_from.value_or(found->number) : 1;
  bool said = found && !found->migrating_from;
  for (const Migration& migration : migrations) {
    if (migration.to <= number) continue;
    spdlog::info("data is brought to another format folder={} from={} to={}", log_value(data_dir.string()), number,
                 migration.to);
    const StoreFormat begun{.number = migration.to, .migrating_from = number, .release = release};
    if (auto written = write(data_dir, begun); !written) return written;
    if (auto run = migration.run(); !run) return run;
    number = migration.to;
    if (auto written = write(data_dir, {.number = number, .migrating_from = {}, .release = release}); !written)
      return written;
    said = true;
  }
  if (number != ours) {
    return fail(Code::kInternal, std::format("no way from format {} to {} is known", number, ours));
  }
  if (said) return {};
  return write(data_dir, {.number = ours, .migrating_from = {}, .release = release});
}

}  // namespace slipway::registry
