// probe is what the drills run in pods: a small server that can be looked at and driven, and its own client.
//
//	probe                      serve on :8080, files below /data
//	probe get URL              print the answer; exit 1 unless it is 200
//	probe connect HOST:PORT    exit 0 when a connection is accepted
//	probe load [OPTIONS] URL SECONDS
//	                           ask at a steady rate until the time is up or SIGTERM; print as JSON, for each second and
//	                           at the end for all, how many answers were 200 and how many not, and how long they took
//	probe stop                 SIGTERM to the container's first process
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	switch arguments := os.Args[1:]; {
	case len(arguments) == 0:
		serve()
	case arguments[0] == "get" && len(arguments) == 2:
		body, err := get(arguments[1])
		fmt.Println(body)
		if err != nil {
			log.Fatal(err)
		}
	case arguments[0] == "connect" && len(arguments) == 2:
		connection, err := net.DialTimeout("tcp", arguments[1], 3*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		connection.Close()
	case arguments[0] == "stop":
		if err := syscall.Kill(1, syscall.SIGTERM); err != nil {
			log.Fatal(err)
		}
	case arguments[0] == "load":
		load(arguments[1:])
	default:
		log.Fatal("usage: probe [get URL | connect HOST:PORT | load [OPTIONS] URL SECONDS | stop]")
	}
}

func serve() {
	host, _ := os.Hostname()
	var queue atomic.Int64 // what /metrics says is queued
	mux := http.NewServeMux()
	mux.HandleFunc("GET /name", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, host) })
	mux.HandleFunc("GET /addresses/{name}", func(w http.ResponseWriter, r *http.Request) {
		found, err := net.DefaultResolver.LookupHost(r.Context(), r.PathValue("name"))
		slices.Sort(found)
		answer(w, strings.Join(found, " "), err)
	})
	mux.HandleFunc("GET /data/{name}/put/{content}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, "", os.WriteFile(filepath.Join("/data", r.PathValue("name")), []byte(r.PathValue("content")), 0o600))
	})
	mux.HandleFunc("GET /data/{name}", func(w http.ResponseWriter, r *http.Request) {
		content, err := os.ReadFile(filepath.Join("/data", r.PathValue("name")))
		answer(w, string(content), err)
	})
	mux.HandleFunc("GET /busy/{seconds}", func(w http.ResponseWriter, r *http.Request) {
		seconds, err := strconv.Atoi(r.PathValue("seconds"))
		go func() {
			for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
			}
		}()
		answer(w, "", err)
	})
	mux.HandleFunc("GET /hold/{mebibytes}", func(w http.ResponseWriter, r *http.Request) {
		mebibytes, err := strconv.Atoi(r.PathValue("mebibytes"))
		held := make([]byte, mebibytes<<20)
		for i := 0; i < len(held); i += 4096 {
			held[i] = 1
		}
		answer(w, fmt.Sprint(len(held)), err)
	})
	mux.HandleFunc("GET /queue/{length}", func(w http.ResponseWriter, r *http.Request) {
		length, err := strconv.ParseInt(r.PathValue("length"), 10, 64)
		queue.Store(length)
		answer(w, "", err)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE probe_queue gauge\nprobe_queue{kind=\"drill\"} %d\nprobe_queued_total 0\n", queue.Load())
	})

	server := &http.Server{Addr: ":8080", Handler: mux}
	stopped := make(chan struct{})
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		<-signals
		time.Sleep(2 * time.Second) // until no proxy sends new requests here
		server.Shutdown(context.Background())
		close(stopped)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stopped
}

func answer(w http.ResponseWriter, body string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, body)
}

// A connection per request, so that each is balanced anew.
var client = http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func get(url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", response.Status)
	}
	return string(body), err
}
