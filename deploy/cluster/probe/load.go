package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// result is what load prints. Times are in seconds since the Unix epoch, latencies in milliseconds.
type result struct {
	Good    int            `json:"good"`
	Bad     int            `json:"bad"`
	Errors  map[string]int `json:"errors"` // of the bad ones, by what was said
	Seconds []second       `json:"seconds"`
}

// second is what became of the requests that began in it.
type second struct {
	At   int64   `json:"at"`
	Good int     `json:"good"`
	Bad  int     `json:"bad"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
}

type outcome struct {
	began time.Time
	took  time.Duration
	err   string
}

// load begins after many good answers in a row. It starts each request when it is due, whatever became of those before: a
// server that stalls gets all of them, as from many clients. Nothing is asked twice. Each second has a line in the log, for who
// waits for some more of them.
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
	fresh := http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	kept := http.Client{Timeout: *timeout, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var (
		lock     sync.Mutex
		outcomes []outcome
		told     int64 // the last second that a line was printed for
		open     sync.WaitGroup
	)
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
		if second := int64(time.Since(began).Seconds()); second > told {
			told = second
			lock.Lock()
			log.Printf("second=%d asked=%d answered=%d", second, i, len(outcomes))
			lock.Unlock()
		}
		open.Add(1)
		go func() {
			defer open.Done()
			start := time.Now()
			said := ask(client, flags.Arg(0), *body)
			lock.Lock()
			defer lock.Unlock()
			outcomes = append(outcomes, outcome{start, time.Since(start), said})
		}()
	}
	open.Wait()
	printed, err := json.Marshal(summary(outcomes))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(os.Stdout, string(printed))
}

// ask says what was wrong; empty: nothing.
func ask(client *http.Client, url, body string) string {
	var response *http.Response
	var err error
	if body == "" {
		response, err = client.Get(url)
	} else {
		response, err = client.Post(url, "application/json", bytes.NewReader([]byte(body)))
	}
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	if response.StatusCode != http.StatusOK {
		return response.Status + " " + string(said)
	}
	return ""
}

func summary(outcomes []outcome) result {
	all := result{Errors: map[string]int{}, Seconds: []second{}}
	bySecond := map[int64][]outcome{}
	for _, one := range outcomes {
		bySecond[one.began.Unix()] = append(bySecond[one.began.Unix()], one)
	}
	for at, ones := range bySecond {
		slices.SortFunc(ones, func(a, b outcome) int { return int(a.took - b.took) })
		bad := 0
		for _, one := range ones {
			if one.err != "" {
				bad++
				all.Errors[one.err]++
			}
		}
		quantile := func(q float64) float64 {
			return float64(ones[min(len(ones)-1, int(q*float64(len(ones))))].took.Microseconds()) / 1000
		}
		all.Seconds = append(all.Seconds, second{at, len(ones) - bad, bad, quantile(0.5), quantile(0.99)})
		all.Good += len(ones) - bad
		all.Bad += bad
	}
	slices.SortFunc(all.Seconds, func(a, b second) int { return int(a.At - b.At) })
	return all
}
