#include "cli/http_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <format>
#include <fstream>
#include <thread>

#include "cli/text.h"
#include "lib/base/release.h"

namespace slipway::cli {

// What one call needs while it runs; libcurl's callbacks get a pointer to it.
struct HttpClient::Transfer {
  HttpResponse response;
  std::function<bool(std::string_view)> sink;  // of a success's body; empty: into `response`
  TransferProgress progress;
  const std::atomic<bool>* stop = nullptr;
  CURL* curl = nullptr;
  curl_slist* headers = nullptr;
  curl_mime* form = nullptr;
  bool sink_ended = false;
  bool upload = false;

  ~Transfer() {
    curl_mime_free(form);
    curl_slist_free_all(headers);
  }

  static std::size_t write(char* data, std::size_t, std::size_t size, void* self_pointer) {
    auto& self = *static_cast<Transfer*>(self_pointer);
    long status = 0;
    curl_easy_getinfo(self.curl, CURLINFO_RESPONSE_CODE, &status);
    if (self.sink && status >= 200 && status < 300) {
      self.sink_ended = !self.sink({data, size});
      return self.sink_ended ? CURL_WRITEFUNC_ERROR : size;
    }
    self.response.body.append(data, size);
    return size;
  }

  static int report(void* self_pointer, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up) {
    auto& self = *static_cast<Transfer*>(self_pointer);
    if (self.stop != nullptr && *self.stop) return 1;
    if (self.progress) {
      self.progress(static_cast<std::uint64_t>(self.upload ? up : down),
                    static_cast<std::uint64_t>(self.upload ? up_total : down_total));
    }
    return 0;
  }
};

namespace {

std::string without_slashes(std::string server) {
  while (server.ends_with('/')) server.pop_back();
  return server;
}

bool is_success(const HttpResponse& response) { return response.status >= 200 && response.status < 300; }

std::unexpected<Failure> refused(const HttpResponse& response) {
  return give_up(Exit::kRefused, refusal_text(response));
}

Outcome<boost::json::value> parse_body(const HttpResponse& response) {
  if (response.body.empty()) return boost::json::value();
  boost::system::error_code error;
  boost::json::parse_options options;
  options.numbers = boost::json::number_precision::precise;
  boost::json::value value = boost::json::parse(response.body, error, {}, options);
  if (error) {
    return give_up(Exit::kRefused, std::format("the server's answer ({}) is not JSON: {}. Is this a Slipway gateway?",
                                               response.status, printable(response.body.substr(0, 120))));
  }
  return value;
}

}  // namespace

std::string refusal_text(const HttpResponse& response) {
  boost::system::error_code not_json;
  const boost::json::value value = boost::json::parse(response.body, not_json);
  if (const auto* object = not_json ? nullptr : value.if_object()) {
    const auto text = [&](const char* name) -> std::string {
      const auto* found = object->if_contains(name);
      const auto* string = found != nullptr ? found->if_string() : nullptr;
      return string != nullptr ? printable(*string) : "";
    };
    std::string message = text("detail");
    if (message.empty()) message = text("error");
    if (message.empty()) message = text("title");
    if (!message.empty()) {
      if (const std::string path = text("path"); !path.empty()) message = std::format("at {}: {}", path, message);
      if (const std::string id = text("request_id"); !id.empty() && response.status >= 500) {
        message += std::format(" (request {})", id);
      }
      return std::format("{} (HTTP {})", message, response.status);
    }
  }
  return std::format("HTTP {}{}{}", response.status, response.body.empty() ? "" : ": ",
                     printable(std::string_view(response.body).substr(0, 300)));
}

HttpClient::HttpClient(std::string server, std::chrono::duration<double> timeout,
                       std::chrono::duration<double> connect_within, const std::atomic<bool>* stop)
    : server_(without_slashes(std::move(server))),
      timeout_(timeout),
      connect_within_(connect_within),
      stop_(stop),
      curl_(curl_easy_init()) {
  if (curl_ == nullptr) std::abort();  // only without memory
}

HttpClient::~HttpClient() { curl_easy_cleanup(curl_); }

void HttpClient::prepare(Transfer& transfer, const std::string& method, const std::string& path,
                         const std::vector<std::string>& headers) {
  curl_easy_reset(curl_);  // keeps the connection
  transfer.curl = curl_;
  transfer.stop = stop_;
  for (const std::string& header : headers) transfer.headers = curl_slist_append(transfer.headers, header.c_str());
  // Without it libcurl waits for "100 Continue" before it sends a body of more than 1 MiB.
  transfer.headers = curl_slist_append(transfer.headers, "Expect:");
  const std::string agent = "slipway/" + std::string(kRelease);
  curl_easy_setopt(curl_, CURLOPT_URL, (server_ + path).c_str());
  curl_easy_setopt(curl_, CURLOPT_USERAGENT, agent.c_str());
  curl_easy_setopt(curl_, CURLOPT_CUSTOMREQUEST, method.c_str());
  curl_easy_setopt(curl_, CURLOPT_HTTPHEADER, transfer.headers);
  curl_easy_setopt(curl_, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl_, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl_, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(curl_, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(std::min(timeout_.count(), 10.0) * 1000));
  curl_easy_setopt(curl_, CURLOPT_WRITEFUNCTION, &Transfer::write);
  curl_easy_setopt(curl_, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl_, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl_, CURLOPT_XFERINFOFUNCTION, &Transfer::report);
  curl_easy_setopt(curl_, CURLOPT_XFERINFODATA, &transfer);
}

Outcome<void> HttpClient::perform(Transfer& transfer) {
  const auto until = std::chrono::steady_clock::now() + connect_within_;
  CURLcode code = curl_easy_perform(curl_);
  // Nothing has been sent then, so that nothing is sent twice.
  while ((code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST) &&
         std::chrono::steady_clock::now() < until && (stop_ == nullptr || !*stop_)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    code = curl_easy_perform(curl_);
  }
  long status = 0;
  curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
  transfer.response.status = static_cast<int>(status);
  const char* type = nullptr;
  curl_easy_getinfo(curl_, CURLINFO_CONTENT_TYPE, &type);
  if (type != nullptr) transfer.response.content_type = type;
  curl_off_t retry_after = 0;
  curl_easy_getinfo(curl_, CURLINFO_RETRY_AFTER, &retry_after);
  transfer.response.retry_after = std::chrono::seconds(retry_after);

  if (code == CURLE_OK || transfer.sink_ended) return {};
  // A server may refuse an upload before it has read all of it; the refusal is then what counts.
  if (code == CURLE_SEND_ERROR && status >= 400) return {};
  return give_up(Exit::kUnreachable, std::format("no answer from {}: {}", server_, curl_easy_strerror(code)));
}

Outcome<HttpResponse> HttpClient::send(const std::string& method, const std::string& path, std::string_view body,
                                       const std::vector<std::string>& headers) {
  Transfer transfer;
  std::vector<std::string> all = headers;
  all.emplace_back(body.empty() ? "Content-Type:" : "Content-Type: application/json");  // nothing: no type either
  prepare(transfer, method, path, all);
  curl_easy_setopt(curl_, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout_.count() * 1000));
  if (!body.empty() || method == "POST" || method == "PUT") {
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDS, body.empty() ? "" : body.data());
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  }
  if (auto done = perform(transfer); !done) return std::unexpected(done.error());
  return std::move(transfer.response);
}

Outcome<boost::json::value> HttpClient::call(const std::string& method, const std::string& path, std::string_view body,
                                             const std::vector<std::string>& headers) {
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  while (true) {
    const auto response = send(method, path, body, headers);
    if (!response) return std::unexpected(response.error());
    if (is_success(*response)) return parse_body(*response);
    const bool busy = response->status == 503 && response->retry_after.count() > 0;
    const auto wait = std::min<std::chrono::milliseconds>(response->retry_after, std::chrono::seconds(5));
    if (!busy || std::chrono::steady_clock::now() + wait >= deadline || (stop_ != nullptr && *stop_)) {
      return refused(*response);
    }
    std::this_thread::sleep_for(wait);
  }
}

Outcome<boost::json::array> HttpClient::list(const std::string& path, std::size_t max_items, const std::string& from) {
  boost::json::array all;
  std::string next;
  while (true) {
    const std::string cursor = std::format("{}{}=", path.contains('?') ? '&' : '?', from);
    const auto page = call("GET", next.empty() ? path : path + cursor + url_segment(next));
    if (!page) return std::unexpected(page.error());
    const auto* object = page->if_object();
    const auto* items = object != nullptr ? object->if_contains("items") : nullptr;
    if (items == nullptr || !items->is_array()) {
      return give_up(Exit::kRefused, std::format("the answer to {} has no list \"items\"", path));
    }
    for (const auto& item : items->get_array()) {
      if (all.size() < max_items) all.push_back(item);
    }
    const auto* more = object->if_contains("next");
    if (more == nullptr || more->is_null() || items->get_array().empty() || all.size() >= max_items) {
      return all;
    }
    std::string token =
        more->is_string() ? std::string(more->get_string()) : boost::json::serialize(*more);  // a text or a number
    if (token.empty() || token == next) return all;
    next = std::move(token);
  }
}

Outcome<boost::json::value> HttpClient::upload(const std::string& method, const std::string& path,
                                               const std::vector<FormPart>& parts, const TransferProgress& progress) {
  Transfer transfer;
  transfer.progress = progress;
  transfer.upload = true;
  prepare(transfer, method, path, {});
  transfer.form = curl_mime_init(curl_);
  for (const FormPart& form_part : parts) {
    curl_mimepart* part = curl_mime_addpart(transfer.form);
    curl_mime_name(part, form_part.name.c_str());
    if (!form_part.content_type.empty()) curl_mime_type(part, form_part.content_type.c_str());
    if (form_part.file.empty()) {
      curl_mime_data(part, form_part.text.data(), form_part.text.size());
    } else if (curl_mime_filedata(part, form_part.file.c_str()) != CURLE_OK) {
      return give_up(Exit::kUsage, std::format("cannot read {}", form_part.file.string()));
    }
  }
  curl_easy_setopt(curl_, CURLOPT_MIMEPOST, transfer.form);
  curl_easy_setopt(curl_, CURLOPT_CUSTOMREQUEST, method.c_str());
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_TIME, std::max(1L, static_cast<long>(timeout_.count())));
  if (auto done = perform(transfer); !done) return std::unexpected(done.error());
  if (!is_success(transfer.response)) return refused(transfer.response);
  return parse_body(transfer.response);
}

Outcome<std::uint64_t> HttpClient::download(const std::string& path, const std::filesystem::path& file,
                                            const TransferProgress& progress) {
  const std::filesystem::path part = file.string() + ".part";
  std::ofstream out(part, std::ios::binary | std::ios::trunc);
  if (!out) return give_up(Exit::kUsage, std::format("cannot write {}", part.string()));
  std::uint64_t bytes = 0;
  bool disk_failed = false;

  Transfer transfer;
  transfer.progress = progress;
  transfer.sink = [&](std::string_view piece) {
    out.write(piece.data(), static_cast<std::streamsize>(piece.size()));
    bytes += piece.size();
    disk_failed = !out;
    return !disk_failed;
  };
  prepare(transfer, "GET", path, {});
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_TIME, std::max(1L, static_cast<long>(timeout_.count())));
  const auto done = perform(transfer);
  out.close();
  disk_failed = disk_failed || out.fail();

  std::error_code error;
  if (done && !disk_failed && is_success(transfer.response)) {
    std::filesystem::rename(part, file, error);
    if (!error) return bytes;
    disk_failed = true;
  }
  std::error_code ignored;
  std::filesystem::remove(part, ignored);
  if (!done) return std::unexpected(done.error());
  if (disk_failed) return give_up(Exit::kUsage, std::format("cannot write {}", file.string()));
  return refused(transfer.response);
}

Outcome<void> HttpClient::stream(const std::string& path, const std::vector<std::string>& headers,
                                 std::chrono::seconds silence, const std::function<bool(std::string_view)>& on_bytes) {
  Transfer transfer;
  transfer.sink = on_bytes;
  prepare(transfer, "GET", path, headers);
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl_, CURLOPT_LOW_SPEED_TIME, static_cast<long>(silence.count()));
  if (auto done = perform(transfer); !done) {
    if (is_success(transfer.response)) return {};  // it was there and has gone: the caller comes back
    return done;
  }
  if (!is_success(transfer.response)) return refused(transfer.response);
  return {};
}

}  // namespace slipway::cli
