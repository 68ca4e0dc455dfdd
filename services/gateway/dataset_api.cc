// /api/v1/datasets
#include <set>

#include "lib/base/json_text.h"
#include "lib/base/name.h"
#include "services/gateway/documents.h"
#include "services/gateway/multipart.h"
#include "services/gateway/own_api.h"
#include "services/gateway/problem.h"
#include "services/gateway/registry_upload.h"

namespace slipway::gateway {
namespace {

// Every file part of a form, in order.
Task<Result<void>> upload_form(RegistryUpload& upload, Call& call) {
  auto boundary = MultipartParser::boundary_of(call.request.header("Content-Type"));
  if (!boundary) co_return std::unexpected(boundary.error());
  MultipartParser parser(std::move(*boundary));
  std::vector<PartPiece> pieces;
  std::set<std::string> names;
  while (true) {
    auto bytes = co_await call.reader->next();
    if (!bytes) co_return std::unexpected(bytes.error());
    if (bytes->empty()) break;
    pieces.clear();
    if (auto pushed = parser.push({reinterpret_cast<const char*>(bytes->data()), bytes->size()}, pieces); !pushed)
      co_return pushed;
    for (auto& piece : pieces) {
      Result<void> done;
      switch (piece.kind) {
        case PartPiece::Kind::kBegin:
          if (piece.head.filename.empty()) {
            co_return fail(Code::kInvalidArgument,
                           std::format("form part '{}' is not a file: it has no filename", piece.head.name));
          }
          if (auto named = check_file_name(piece.head.filename); !named) co_return named;
          // The registry would take the second one's parts for repeats.
          if (!names.insert(piece.head.filename).second)
            co_return fail(Code::kInvalidArgument, std::format("file '{}' comes twice", piece.head.filename));
          upload.begin_file(std::move(piece.head.filename), true);
          break;
        case PartPiece::Kind::kData:
          done = co_await upload.write(piece.data);
          break;
        case PartPiece::Kind::kEnd:
          done = co_await upload.end_file();
          break;
      }
      if (!done) co_return done;
    }
  }
  if (auto whole = parser.finish(); !whole) co_return whole;
  if (names.empty()) co_return fail(Code::kInvalidArgument, "the form has no file");
  co_return Result<void>();
}

// The whole body as one file.
Task<Result<void>> upload_raw(RegistryUpload& upload, Call& call) {
  auto given = call.request.query_value("file");
  if (!given) co_return std::unexpected(given.error());
  const std::string name = *given ? **given : field_parameter(call.request.header("Content-Disposition"), "filename");
  if (name.empty()) {
    co_return fail(Code::kInvalidArgument,
                   "a raw body needs a file name: ?file=NAME, or Content-Disposition: attachment; filename=\"NAME\"; "
                   "or send multipart/form-data");
  }
  if (auto named = check_file_name(name); !named) co_return named;
  upload.begin_file(name, true);
  while (true) {
    auto bytes = co_await call.reader->next();
    if (!bytes) co_return std::unexpected(bytes.error());
    if (bytes->empty()) break;
    if (auto done = co_await upload.write({reinterpret_cast<const char*>(bytes->data()), bytes->size()}); !done)
      co_return done;
  }
  co_return co_await upload.end_file();
}

Task<Response> put_dataset(Services& services, Call& call) {
  if (auto named = check_name("data set", call.param("name")); !named) co_return refuse(named.error(), call);
  RegistryUpload upload(services.registry, co_await asio::this_coro::executor, call.request.id, {}, call.memory);
  const std::string_view type = call.request.header("Content-Type");
  const bool form = equals_ignoring_case(type.substr(0, 10), "multipart/");
  if (auto sent = form ? co_await upload_form(upload, call) : co_await upload_raw(upload, call); !sent) {
    const bool slow = sent.error().code == Code::kDeadlineExceeded;
    co_return slow ? error_response(408, sent.error(), Dialect::kOwn, call.request) : refuse(sent.error(), call);
  }
  if (auto files = co_await upload.files(); !files) co_return refuse(files.error(), call);
  auto stored = co_await upload.commit<msg::DatasetStored>(
      msg::CommitDataset{.upload = {}, .name = call.param("name"), .actor = actor_of(call.request)});
  if (!stored) co_return refuse(stored.error(), call);
  Response response = json_response(stored->created ? 201 : 200, slipway::json_text(to_json(stored->dataset)));
  response.headers.emplace_back("Location", std::format("/api/v1/datasets/{}?version={}",
                                                        percent_encode(stored->dataset.name), stored->dataset.version));
  co_return response;
}

Task<Response> list_datasets(Services& services, Call& call) {
  auto wanted = page_request<std::string>(call.request, "after");
  if (!wanted) co_return refuse(wanted.error(), call);
  auto page = co_await services.registry.ask<msg::Datasets>(
      msg::ListDatasets{.name = {}, .after = std::move(wanted->cursor), .limit = wanted->limit}, call.request.id);
  if (!page) co_return refuse(page.error(), call);
  co_return page_response(
      page->items, wanted->limit, [](const Dataset& dataset) { return dataset.name; },
      [](const Dataset& dataset) { return to_json(dataset); });
}

Task<Response> list_versions(Services& services, Call& call) {
  auto wanted = page_request<std::uint64_t>(call.request, "after");
  if (!wanted) co_return refuse(wanted.error(), call);
  auto page = co_await services.registry.ask<msg::Datasets>(
      msg::ListDatasets{
          .name = call.param("name"), .after = {}, .limit = wanted->limit, .after_version = wanted->cursor},
      call.request.id);
  if (!page) co_return refuse(page.error(), call);
  co_return page_response(
      page->items, wanted->limit, [](const Dataset& dataset) { return dataset.version; },
      [](const Dataset& dataset) { return to_json(dataset); });
}

Task<Response> get_dataset(Services& services, Call& call) {
  auto version = call.request.query_number("version");
  if (!version) co_return refuse(version.error(), call);
  auto found = co_await services.registry.ask<msg::Datasets>(
      msg::GetDataset{.name = call.param("name"), .version = version->value_or(0)}, call.request.id);
  if (!found) co_return refuse(found.error(), call);
  if (found->items.size() != 1)
    co_return refuse({.code = Code::kInternal, .message = "the registry answered a dataset with none", .path = {}},
                     call);
  co_return json_response(200, slipway::json_text(to_json(found->items.front())));
}

}  // namespace

void add_dataset_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "GET", "/api/v1/datasets", BodyPolicy::kNone, false, list_datasets,
                {"limit", "after"});
  add_own_route(routes, services, "PUT", "/api/v1/datasets/{name}", BodyPolicy::kStream, true, put_dataset, {"file"});
  add_own_route(routes, services, "GET", "/api/v1/datasets/{name}", BodyPolicy::kNone, false, get_dataset, {"version"});
  add_own_route(routes, services, "GET", "/api/v1/datasets/{name}/versions", BodyPolicy::kNone, false, list_versions,
                {"limit", "after"});
}

}  // namespace slipway::gateway
