#include "services/inferencer/quarantine.h"

#include <format>
#include <fstream>
#include <iterator>

namespace slipway::inferencer {
namespace {

std::filesystem::path mark_of(const std::filesystem::path& folder, const Digest& digest) {
  return folder / (to_hex(digest) + ".quarantined");
}

}  // namespace

Result<void> quarantine(const std::filesystem::path& folder, const Digest& digest, const std::string& reason) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  const auto path = mark_of(folder, digest);
  std::ofstream out(path);
  out << reason;
  out.close();
  if (!out) return fail(Code::kInternal, std::format("cannot write {}", path.string()));
  return {};
}

Result<void> check_quarantine(const std::filesystem::path& folder, const Digest& digest) {
  const auto path = mark_of(folder, digest);
  std::error_code failed;
  if (!std::filesystem::exists(path, failed)) return {};
  std::ifstream in(path);
  const std::string reason{std::istreambuf_iterator<char>(in), {}};
  return fail(Code::kInvalidArgument, std::format("the TorchScript file is quarantined: {}", reason));
}

}  // namespace slipway::inferencer
