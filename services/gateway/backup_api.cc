// /api/v1/backups: backups that the registry makes, and each of them as an archive.
#include <spdlog/spdlog.h>

#include "lib/base/json_text.h"
#include "lib/base/log.h"
#include "services/gateway/documents.h"
#include "services/gateway/own_api.h"
#include "services/gateway/problem.h"
#include "services/gateway/tar_header.h"

namespace slipway::gateway {
namespace {

constexpr std::uint32_t kMostKept = 10'000;
constexpr std::uint32_t kFilesPage = 500;
constexpr std::chrono::minutes kDeleteDeadline{10};

std::string_view state_text(msg::BackupState state) {
  switch (state) {
    case msg::BackupState::kRunning:
      return "RUNNING";
    case msg::BackupState::kSucceeded:
      return "SUCCEEDED";
    case msg::BackupState::kFailed:
      return "FAILED";
  }
  return "UNKNOWN";
}

json::object to_json(const msg::Backup& backup) {
  return {{"id", backup.id},
          {"state", state_text(backup.state)},
          {"started_at", time_json(backup.started_ms)},
          {"ended_at", time_json(backup.ended_ms)},
          {"revision", backup.revision},
          {"chunks", backup.chunks},
          {"size_bytes", backup.size_bytes},
          {"copied_bytes", backup.copied_bytes},
          {"damaged_chunks", backup.damaged_chunks},
          {"reason", backup.reason.empty() ? json::value(nullptr) : json::value(backup.reason)},
          {"actor", backup.actor},
          {"release", backup.release}};
}

// {"keep"?: how many}; no body is {}.
Result<std::uint32_t> read_keep(std::string_view body) {
  if (body.empty()) return 0;
  const auto document = parse_document(body);
  if (!document) return std::unexpected(document.error());
  std::uint32_t keep = 0;
  for (const auto& [key, value] : *document) {
    if (key != "keep")
      return fail_at(std::format("$.{}", std::string_view(key)), Code::kInvalidArgument,
                     "unknown member; there is keep");
    const auto* number = value.if_int64();
    if (number == nullptr || *number < 1 || *number > kMostKept) {
      return fail_at("$.keep", Code::kInvalidArgument,
                     std::format("{} came, wanted a whole number from 1 to {}", json::serialize(value), kMostKept));
    }
    keep = static_cast<std::uint32_t>(*number);
  }
  return keep;
}

Task<Result<msg::Backup>> find_backup(Services& services, const Call& call) {
  auto answer = co_await services.registry.ask<msg::Backups>(msg::ListBackups{.id = call.param("id")}, call.request.id);
  if (!answer) co_return std::unexpected(std::move(answer).error());
  if (answer->items.size() != 1) co_return fail(Code::kInternal, "the registry answered a backup with none");
  co_return std::move(answer->items.front());
}

Task<Response> post_backup(Services& services, Call& call) {
  const auto keep = read_keep(call.body);
  if (!keep) co_return refuse(keep.error(), call);
  // Not repeated: the second would find the first one being made, and be refused.
  const auto begun = co_await services.registry.ask<msg::Backups>(
      msg::CreateBackup{.keep = *keep, .actor = actor_of(call.request)}, call.request.id, false);
  if (!begun) co_return refuse(begun.error(), call);
  if (begun->items.size() != 1)
    co_return refuse({.code = Code::kInternal, .message = "the registry answered a backup with none", .path = {}},
                     call);
  const msg::Backup& backup = begun->items.front();
  Response response = json_response(202, json_text(to_json(backup)));
  response.headers.emplace_back("Location", "/api/v1/backups/" + percent_encode(backup.id));
  co_return response;
}

Task<Response> list_backups(Services& services, Call& call) {
  const auto all = co_await services.registry.ask<msg::Backups>(msg::ListBackups{}, call.request.id);
  if (!all) co_return refuse(all.error(), call);
  json::array items;
  for (const msg::Backup& backup : all->items) items.push_back(to_json(backup));
  co_return json_response(200, list_json(std::move(items), nullptr));
}

Task<Response> get_backup(Services& services, Call& call) {
  const auto backup = co_await find_backup(services, call);
  if (!backup) co_return refuse(backup.error(), call);
  co_return json_response(200, json_text(to_json(*backup)));
}

Task<Response> delete_backup(Services& services, Call& call) {
  // Not repeated: the second would find the first one at work.
  const auto gone = Caller::as<msg::Ok>(co_await services.registry.call(
      msg::DeleteBackup{.id = call.param("id"), .actor = actor_of(call.request)}, {},
      {.deadline = kDeleteDeadline, .repeat_after = {}, .request_id = call.request.id}));
  if (!gone) co_return refuse(gone.error(), call);
  co_return Response{.status = 204};
}

// Throws when the client has gone too.
Task<void> write_all(BodyWriter& writer, std::string_view bytes) {
  if (!bytes.empty() && !co_await writer.write(bytes)) throw std::runtime_error("the client has gone");
}

template <class T>
T or_throw(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

Task<void> send_file(Services& services, const std::string& request_id, const msg::Backup& backup,
                     const msg::BackupFile& file, BodyWriter& writer) {
  co_await write_all(writer, or_throw(tar_header(file.name, file.size_bytes, backup.started_ms / 1000)));
  for (std::uint64_t at = 0; at < file.size_bytes;) {
    const auto piece = or_throw(
        co_await services.registry.call(msg::ReadBackup{.id = backup.id, .file = file.name, .offset_bytes = at}, {},
                                        services.registry.options(request_id)));
    if (piece.payload.size() != 1 || piece.payload[0].size() == 0 || piece.payload[0].size() > file.size_bytes - at)
      throw std::runtime_error(std::format("{} is not of the size that was said", file.name));
    co_await write_all(writer, piece.payload[0].text());
    at += piece.payload[0].size();
  }
  co_await write_all(writer, tar_padding(file.size_bytes));
}

// What says that the backup is whole comes last, so an archive that was cut short is not taken for one. A failure cuts
// the connection.
Task<void> send_archive(Services& services, std::string request_id, msg::Backup backup, BodyWriter& writer) {
  try {
    for (std::uint64_t sent = 0;;) {
      const auto page = or_throw(co_await services.registry.ask<msg::BackupFiles>(
          msg::ListBackupFiles{.id = backup.id, .after = sent, .limit = kFilesPage}, request_id));
      if (page.items.empty()) break;
      for (const msg::BackupFile& file : page.items) co_await send_file(services, request_id, backup, file, writer);
      sent += page.items.size();
    }
    co_await write_all(writer, tar_end());
  } catch (const std::exception& failure) {
    spdlog::warn("backup's archive cut short id={} request={} message={}", log_value(backup.id), request_id,
                 log_value(failure.what()));
    throw;
  }
}

Task<Response> get_content(Services& services, Call& call) {
  auto backup = co_await find_backup(services, call);
  if (!backup) co_return refuse(backup.error(), call);
  if (backup->state != msg::BackupState::kSucceeded) {
    co_return refuse({.code = Code::kConflict,
                      .message = std::format("backup {} is {}: it has no content", backup->id,
                                             backup->state == msg::BackupState::kRunning ? "being made" : "failed"),
                      .path = {}},
                     call);
  }
  Response response;
  response.content_type = "application/x-tar";
  response.headers = {{"Content-Disposition", std::format("attachment; filename=\"slipway-{}.tar\"", backup->id)}};
  response.stream = [&services, id = call.request.id, kept = std::move(*backup)](BodyWriter& writer) {
    return send_archive(services, id, kept, writer);
  };
  co_return response;
}

}  // namespace

void add_backup_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "POST", "/api/v1/backups", BodyPolicy::kMemory, true, post_backup);
  add_own_route(routes, services, "GET", "/api/v1/backups", BodyPolicy::kNone, false, list_backups);
  add_own_route(routes, services, "GET", "/api/v1/backups/{id}", BodyPolicy::kNone, false, get_backup);
  add_own_route(routes, services, "DELETE", "/api/v1/backups/{id}", BodyPolicy::kNone, true, delete_backup);
  add_own_route(routes, services, "GET", "/api/v1/backups/{id}/content", BodyPolicy::kNone, false, get_content);
}

}  // namespace slipway::gateway
