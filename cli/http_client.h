// Slipway's HTTP API as a client sees it, over libcurl: one connection kept alive from call to call.
#pragma once

#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/outcome.h"

namespace slipway::cli {

struct HttpResponse {
  int status = 0;
  std::string content_type;
  std::string body;
  std::chrono::seconds retry_after{0};  // 0: not given
};

// One part of a multipart/form-data body: a file that is streamed, or `text` when `file` is empty.
struct FormPart {
  std::string name;
  std::filesystem::path file;
  std::string text;
  std::string content_type;
};

// Bytes done and in all; in all is 0 when it is not known.
using TransferProgress = std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>;

// Threads: not thread-safe. Every call fails with kUnreachable when no answer comes, and with kRefused, the server's
// own words in the message, when the answer is not a success.
class HttpClient {
 public:
  // `server` is "http://host:port", perhaps with a path before the API's. `timeout` bounds one call; uploads, downloads
  // and streams instead end after that time without a byte. While the server cannot be connected to, each call tries
  // again for `connect_within`. A set `stop` ends the call at hand within a second.
  HttpClient(std::string server, std::chrono::duration<double> timeout,
             std::chrono::duration<double> connect_within = {}, const std::atomic<bool>* stop = nullptr);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  [[nodiscard]] const std::string& server() const { return server_; }

  // Any answer, a refusal too. `body` is sent as JSON when it is not empty.
  [[nodiscard]] Outcome<HttpResponse> send(const std::string& method, const std::string& path,
                                           std::string_view body = {}, const std::vector<std::string>& headers = {});

  // A call whose answer is JSON, or nothing (null). 503 with Retry-After is tried again until the timeout is over.
  [[nodiscard]] Outcome<boost::json::value> call(const std::string& method, const std::string& path,
                                                 std::string_view body = {},
                                                 const std::vector<std::string>& headers = {});

  // The items of a list, page by page, at most `max_items`. `from` is the query parameter that takes a page's "next".
  [[nodiscard]] Outcome<boost::json::array> list(const std::string& path,
                                                 std::size_t max_items = std::numeric_limits<std::size_t>::max(),
                                                 const std::string& from = "after");

  [[nodiscard]] Outcome<boost::json::value> upload(const std::string& method, const std::string& path,
                                                   const std::vector<FormPart>& parts,
                                                   const TransferProgress& progress);

  // Writes the answer's body to `file`, which appears whole or not at all. Errors: kUsage (it cannot be written).
  [[nodiscard]] Outcome<std::uint64_t> download(const std::string& path, const std::filesystem::path& file,
                                                const TransferProgress& progress);

  // Reads an answer without an end. `on_bytes` returns whether to go on. Ends well when the server closes the stream,
  // at on_bytes' wish, and after `silence` without a byte.
  [[nodiscard]] Outcome<void> stream(const std::string& path, const std::vector<std::string>& headers,
                                     std::chrono::seconds silence,
                                     const std::function<bool(std::string_view)>& on_bytes);

 private:
  struct Transfer;
  void prepare(Transfer& transfer, const std::string& method, const std::string& path,
               const std::vector<std::string>& headers);
  [[nodiscard]] Outcome<void> perform(Transfer& transfer);

  const std::string server_;
  const std::chrono::duration<double> timeout_;
  const std::chrono::duration<double> connect_within_;
  const std::atomic<bool>* const stop_;
  void* const curl_;
};

// What a refusal says: a problem document's title, detail and path, or the other dialects' {"error": ...}.
[[nodiscard]] std::string refusal_text(const HttpResponse& response);

}  // namespace slipway::cli
