// /api/v1/models/{model}/versions/{version}/artifacts/{file}: a version's files, whole or in part.
#include <spdlog/spdlog.h>

#include "lib/base/log.h"
#include "lib/base/sha256.h"
#include "schema/limits.h"
#include "services/gateway/byte_range.h"
#include "services/gateway/own_api.h"
#include "services/gateway/predictor.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

// A chunk at a time, so that memory does not grow with the file. A failure in the middle cuts the connection: the
// length was promised.
Task<void> send_chunks(Services& services, std::string request_id, std::shared_ptr<const Version> version,
                       const StoredFile* file, ByteRange range, BodyWriter& writer) {
  std::uint64_t left = range.count;
  std::uint64_t at = range.first;
  while (left > 0) {
    const Digest& digest = file->chunks[at / kChunkBytes];
    auto answer =
        co_await services.registry.call(msg::GetChunk{.digest = digest}, {}, services.registry.options(request_id));
    const std::uint64_t skip = at % kChunkBytes;
    if (!answer || answer->payload.size() != 1 || answer->payload[0].size() <= skip ||
        sha256(answer->payload[0].bytes()) != digest) {
      spdlog::error("artifact cut short id={} model={} version={} file={} message={}", request_id,
                    log_value(version->model), version->number, log_value(file->name),
                    log_value(answer ? "the chunk's bytes are damaged" : answer.error().message));
      throw std::runtime_error("an artifact's chunk could not be read");
    }
    const std::string_view bytes = answer->payload[0].text().substr(skip, left);
    if (!co_await writer.write(bytes)) co_return;
    at += bytes.size();
    left -= bytes.size();
  }
}

Task<Response> get_artifact(Services& services, Call& call) {
  const std::string& wanted = call.param("version");
  auto choice = version_choice(wanted == "latest" ? std::string_view() : std::string_view(wanted));
  if (!choice) co_return refuse(choice.error(), call);
  auto version = co_await services.cache.find(call.param("model"), std::move(*choice), call.request.id);
  if (!version) co_return refuse(version.error(), call);
  const auto& files = (*version)->files;
  const auto file = std::ranges::find(files, call.param("file"), &StoredFile::name);
  if (file == files.end()) {
    co_return refuse({.code = Code::kNotFound,
                      .message = std::format("version {} of model '{}' has no file '{}'", (*version)->number,
                                             (*version)->model, call.param("file")),
                      .path = {}},
                     call);
  }
  if (file->chunks.size() != (file->size_bytes + kChunkBytes - 1) / kChunkBytes) {
    co_return refuse({.code = Code::kDataLoss,
                      .message = std::format("file '{}' of {} bytes has {} chunks", file->name, file->size_bytes,
                                             file->chunks.size()),
                      .path = {}},
                     call);
  }

  const std::string etag = std::format("\"sha256:{}\"", to_hex(file->digest));
  Response response;
  response.content_type = "application/octet-stream";
  response.headers = {{"ETag", etag},
                      {"Accept-Ranges", "bytes"},
                      {"Content-Disposition", std::format("attachment; filename=\"{}\"", percent_encode(file->name))}};
  const std::string_view known = call.request.header("If-None-Match");
  if (known == "*" || known.contains(etag)) {
    response.status = 304;
    co_return response;
  }
  const std::string_view same = call.request.header("If-Range");
  const ByteRange range =
      parse_range(same.empty() || same == etag ? call.request.header("Range") : std::string_view(), file->size_bytes);
  if (range.kind == ByteRange::Kind::kUnsatisfiable) {
    Response none = error_response(
        416,
        {.code = Code::kInvalidArgument, .message = std::format("the file has {} bytes", file->size_bytes), .path = {}},
        Dialect::kOwn, call.request);
    none.headers.emplace_back("Content-Range", std::format("bytes */{}", file->size_bytes));
    co_return none;
  }
  if (range.kind == ByteRange::Kind::kPart) {
    response.status = 206;
    response.headers.emplace_back(
        "Content-Range", std::format("bytes {}-{}/{}", range.first, range.first + range.count - 1, file->size_bytes));
  }
  response.stream_bytes = range.count;
  response.stream = [&services, id = call.request.id, kept = *version, found = &*file, range](BodyWriter& writer) {
    return send_chunks(services, id, kept, found, range, writer);
  };
  co_return response;
}

}  // namespace

void add_artifact_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "GET", "/api/v1/models/{model}/versions/{version}/artifacts/{file}",
                BodyPolicy::kNone, false, get_artifact);
}

}  // namespace slipway::gateway
