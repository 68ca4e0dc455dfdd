package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// result is what load prints at its end.
type result struct {
	Good   int            `json:"good"`
	Bad    int            `json:"bad"`
	Errors map[string]int `json:"errors"` // of the bad ones, by what was said
}

// second is what became of the requests that began in it, printed when all of them have ended. Times are in seconds since the
// Unix epoch, latencies in milliseconds.
type second struct {
	At     int64          `json:"at"`
	Good   int            `json:"good"`
	Bad    int            `json:"bad"`
	P50    float64        `json:"p50"`
	P99    float64        `json:"p99"`
	Errors map[string]int `json:"errors,omitempty"`
}

type outcome struct {
	took time.Duration
	err  string
}

// tally puts outcomes to the seconds in which the requests began.
type tally struct {
	lock  sync.Mutex
	open  map[int64]int // requests without an outcome yet
	ended map[int64][]outcome
	all   result
}

// load begins after many good answers in a row. It starts each request when it is due, whatever became of those before: a
// server that stalls gets all of them, as from many clients. Nothing is asked twice.
func load(arguments []string) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	rate := flags.Float64("rate", 50, "requests a second")
	body := flags.String("body", "", "JSON to POST; none: GET")
	timeout := flags.Duration("timeout", 5*time.Second, "of each request")
	keepAlive := flags.Bool("keep-alive", false, "every second request over connections that stay open; otherwise each over its own")
	flags.Parse(arguments)
	if flags.NArg() != 2 || *rate <= 0 {
		log.Fatal("usage: probe load [OPTIONS] URL SECONDS")
	}
	length, err := strconv.Atoi(flags.Arg(1))
	if err != nil {
		log.Fatal(err)
	}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	fresh := http.Client{Timeout: *timeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	kept := http.Client{Timeout: *timeout, Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}}
	var open sync.WaitGroup
	seen := tally{open: map[int64]int{}, ended: map[int64][]outcome{}, all: result{Errors: map[string]int{}}}
	// Network policies that do not know this pod yet refuse its first connections, and each node learns of it by itself: one
	// good answer speaks for one node only.
	for wait, good := time.Now().Add(time.Minute), 0; good < 30 && time.Now().Before(wait); {
		if ask(&fresh, flags.Arg(0), *body) == "" {
			good++
		} else {
			good = 0
			time.Sleep(100 * time.Millisecond)
		}
	}
	log.Print("begun")
	began := time.Now()
	for i := 0; ; i++ {
		due := began.Add(time.Duration(float64(i) / *rate * float64(time.Second)))
		if due.Sub(began) >= time.Duration(length)*time.Second {
			break
		}
		select {
		case <-stop.Done():
		case <-time.After(time.Until(due)):
		}
		if stop.Err() != nil {
			break
		}
		client := &fresh
		if *keepAlive && i%2 == 1 {
			client = &kept
		}
		open.Add(1)
		at := time.Now().Unix()
		seen.begin(at)
		go func() {
			defer open.Done()
			start := time.Now()
			said := ask(client, flags.Arg(0), *body)
			seen.end(at, outcome{time.Since(start), said})
		}()
	}
	open.Wait()
	seen.begin(math.MaxInt64) // prints what was left
	print(seen.all)
}

func print(what any) {
	text, err := json.Marshal(what)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(os.Stdout, string(text))
}

// begin counts a request of second `at`, and prints the seconds before it that are complete.
func (t *tally) begin(at int64) {
	t.lock.Lock()
	defer t.lock.Unlock()
	for _, earlier := range slices.Sorted(maps.Keys(t.open)) {
		if earlier >= at || t.open[earlier] > 0 {
			break // one after the other
		}
		print(t.close(earlier))
	}
	t.open[at]++
}

func (t *tally) end(at int64, one outcome) {
	t.lock.Lock()
	defer t.lock.Unlock()
	t.open[at]--
	t.ended[at] = append(t.ended[at], one)
}

// close takes a second out.
func (t *tally) close(at int64) second {
	ones := t.ended[at]
	delete(t.open, at)
	delete(t.ended, at)
	slices.SortFunc(ones, func(a, b outcome) int { return int(a.took - b.took) })
	found := second{At: at}
	for _, one := range ones {
		if one.err == "" {
			found.Good++
			continue
		}
		if found.Errors == nil {
			found.Errors = map[string]int{}
		}
		found.Bad++
		found.Errors[one.err]++
		t.all.Errors[one.err]++
	}
	t.all.Good += found.Good
	t.all.Bad += found.Bad
	quantile := func(q float64) float64 {
		return float64(ones[min(len(ones)-1, int(q*float64(len(ones))))].took.Microseconds()) / 1000
	}
	found.P50, found.P99 = quantile(0.5), quantile(0.99)
	return found
}

var lastPort atomic.Uint32

// dial connects from one port after the other. The kernel's choice comes back to a port within half a minute at this rate, and a
// node that still tracks the port's last connection to a Service sends the new one to the same pod, which may have gone.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	for {
		own := net.Dialer{LocalAddr: &net.TCPAddr{Port: 1024 + int(lastPort.Add(1)%64000)}}
		connection, err := own.DialContext(ctx, network, address)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return connection, err
		}
	}
}

// ask says what was wrong, and how far it had come; empty: nothing.
func ask(client *http.Client, url, body string) string {
	var stage atomic.Value // a look-up may outlive the request
	stage.Store("begun")
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		DNSStart:             func(httptrace.DNSStartInfo) { stage.Store("asking for the address") },
		ConnectStart:         func(string, string) { stage.Store("connecting") },
		GotConn:              func(httptrace.GotConnInfo) { stage.Store("connected") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { stage.Store("waiting for the answer") },
		GotFirstResponseByte: func() { stage.Store("reading the answer") },
	})
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Sprint(stage.Load(), ": ", err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Sprint(stage.Load(), ": ", err)
	}
	if response.StatusCode != http.StatusOK {
		return response.Status + " " + string(said)
	}
	return ""
}
