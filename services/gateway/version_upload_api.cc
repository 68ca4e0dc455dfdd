// POST /api/v1/models/{model}/versions: a TorchScript file made elsewhere becomes a version, once an inferencer
// vouches.
#include <optional>

#include "lib/base/json_text.h"
#include "lib/base/name.h"
#include "services/gateway/documents.h"
#include "services/gateway/multipart.h"
#include "services/gateway/own_api.h"
#include "services/gateway/problem.h"
#include "services/gateway/registry_upload.h"

namespace slipway::gateway {
namespace {

constexpr std::size_t kMaxSignatureBytes = 1 << 20;
constexpr std::chrono::seconds kInspectDeadline{120};

struct Form {
  bool has_file = false;
  std::string signature;
  bool has_signature = false;
};

Task<Result<Form>> read_form(RegistryUpload& upload, Call& call) {
  auto boundary = MultipartParser::boundary_of(call.request.header("Content-Type"));
  if (!boundary) co_return std::unexpected(boundary.error());
  MultipartParser parser(std::move(*boundary));
  std::vector<PartPiece> pieces;
  Form form;
  bool in_file = false;
  while (true) {
    auto bytes = co_await call.reader->next();
    if (!bytes) co_return std::unexpected(bytes.error());
    if (bytes->empty()) break;
    pieces.clear();
    if (auto pushed = parser.push({reinterpret_cast<const char*>(bytes->data()), bytes->size()}, pieces); !pushed)
      co_return std::unexpected(pushed.error());
    for (const auto& piece : pieces) {
      if (piece.kind == PartPiece::Kind::kBegin) {
        in_file = piece.head.name == "file";
        bool& seen = in_file ? form.has_file : form.has_signature;
        const bool known = in_file || piece.head.name == "signature";
        if (!known || seen) {
          co_return fail(Code::kInvalidArgument,
                         std::format("form part '{}' {}; a version has one 'file' and one 'signature'", piece.head.name,
                                     known ? "comes twice" : "is unknown"));
        }
        seen = true;
        if (in_file) upload.begin_file("model.pt", false);
      } else if (in_file) {
        auto done =
            piece.kind == PartPiece::Kind::kData ? co_await upload.write(piece.data) : co_await upload.end_file();
        if (!done) co_return std::unexpected(done.error());
      } else if (piece.kind == PartPiece::Kind::kData) {
        form.signature += piece.data;
        if (form.signature.size() > kMaxSignatureBytes)
          co_return fail(Code::kTooLarge, std::format("the signature is larger than {} bytes", kMaxSignatureBytes));
      }
    }
  }
  if (auto whole = parser.finish(); !whole) co_return std::unexpected(whole.error());
  if (!form.has_file || !form.has_signature) {
    co_return fail(Code::kInvalidArgument,
                   std::format("form part '{}' is missing; a version has a 'file' and a 'signature'",
                               form.has_file ? "signature" : "file"));
  }
  co_return form;
}

Task<Result<Signature>> inspect(Services& services, const Call& call, StoredFile file, Signature signature) {
  WorkerHub::Question question{.body = msg::Inspect{.file = std::move(file), .signature = std::move(signature)},
                               .payload = {},
                               .loaded = {},
                               .rows = 1,
                               .deadline = std::chrono::steady_clock::now() + kInspectDeadline,
                               .request_id = call.request.id};
  auto answer = co_await await_value<Result<Message>>([&services, question = std::move(question)](auto done) mutable {
    services.workers.ask(std::move(question), [done](Result<Message> message) mutable { done(std::move(message)); });
  });
  auto inspected = Caller::as<msg::Inspected>(std::move(answer));
  if (!inspected) co_return std::unexpected(inspected.error());
  co_return std::move(inspected->signature);
}

Task<Result<Version>> make_version(Services& services, Call& call, RegistryUpload& upload, std::string signature_text,
                                   std::string key) {
  auto signature = parse_signature(signature_text);
  if (!signature) {
    signature.error().message = "in form part 'signature': " + signature.error().message;
    co_return std::unexpected(signature.error());
  }
  auto files = co_await upload.files();
  if (!files) co_return std::unexpected(files.error());
  if (files->size() != 1)
    co_return fail(Code::kInternal, std::format("the registry stored {} files of 1", files->size()));
  auto completed = co_await inspect(services, call, std::move(files->front()), std::move(*signature));
  if (!completed) co_return std::unexpected(completed.error());
  auto committed = co_await upload.commit<msg::Versions>(msg::CommitVersion{.upload = {},
                                                                            .model = call.param("model"),
                                                                            .signature = std::move(*completed),
                                                                            .actor = actor_of(call.request),
                                                                            .idempotency_key = std::move(key)});
  if (!committed) co_return std::unexpected(committed.error());
  if (committed->items.size() != 1) co_return fail(Code::kInternal, "the registry answered a version with none");
  co_return std::move(committed->items.front());
}

Task<Response> post_version(Services& services, Call& call) {
  if (auto named = check_name("model", call.param("model")); !named) co_return refuse(named.error(), call);
  auto key = idempotency_key_of(call.request);
  if (!key) co_return refuse(key.error(), call);
  RegistryUpload upload(services.registry, co_await asio::this_coro::executor, call.request.id, {}, call.memory);
  auto form = co_await read_form(upload, call);
  if (!form) {
    const bool slow = form.error().code == Code::kDeadlineExceeded;
    co_return slow ? error_response(408, form.error(), Dialect::kOwn, call.request) : refuse(form.error(), call);
  }
  auto version = co_await make_version(services, call, upload, std::move(form->signature), std::move(*key));
  if (!version) co_return refuse(version.error(), call);
  services.cache.forget(version->model);
  Response response = json_response(201, slipway::json_text(to_json(*version)));
  response.headers.emplace_back(
      "Location", std::format("/api/v1/models/{}/versions/{}", percent_encode(version->model), version->number));
  co_return response;
}

}  // namespace

void add_version_upload_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "POST", "/api/v1/models/{model}/versions", BodyPolicy::kStream, true, post_version);
}

}  // namespace slipway::gateway
