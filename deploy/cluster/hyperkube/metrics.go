package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	customMetrics   = "custom.metrics.k8s.io/v1beta2"
	externalMetrics = "external.metrics.k8s.io/v1beta1"
)

type object = map[string]any

// adapter answers the custom and external metrics APIs from the pods themselves: on each question it reads
// the /metrics of the pods asked about (annotation prometheus.io/port), so that an autoscaler follows the
// very names that pods export, with no Prometheus in between.
type adapter struct {
	client kubernetes.Interface
	http   http.Client
}

type sample struct {
	pod   string
	value float64
}

func podMetrics() int {
	flags := flag.NewFlagSet("pod-metrics", flag.ExitOnError)
	config := flags.String("kubeconfig", "", "how to reach the API server")
	address := flags.String("address", "", "HOST:PORT to listen on, TLS")
	cert := flags.String("tls-cert-file", "", "the server's certificate")
	key := flags.String("tls-private-key-file", "", "its key")
	flags.Parse(os.Args[1:])
	client, err := connect(*config)
	if err != nil {
		return exitCode(err)
	}
	a := &adapter{client, http.Client{Timeout: 2 * time.Second}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apis/"+customMetrics, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, resources(customMetrics, "pods/any", "services/any"))
	})
	mux.HandleFunc("GET /apis/"+externalMetrics, func(w http.ResponseWriter, _ *http.Request) { reply(w, resources(externalMetrics, "any")) })
	mux.HandleFunc("GET /apis/"+customMetrics+"/namespaces/{namespace}/pods/{pod}/{metric}", a.custom)
	mux.HandleFunc("GET /apis/"+customMetrics+"/namespaces/{namespace}/services/{service}/{metric}", a.ofService)
	mux.HandleFunc("GET /apis/"+externalMetrics+"/namespaces/{namespace}/{metric}", a.external)
	return exitCode(http.ListenAndServeTLS(*address, *cert, *key, mux))
}

// custom answers one value per pod.
func (a *adapter) custom(w http.ResponseWriter, r *http.Request) {
	metric, namespace := r.PathValue("metric"), r.PathValue("namespace")
	samples, err := a.samples(r, selector(r), r.PathValue("pod"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	items := []object{}
	for _, s := range samples {
		items = append(items, object{
			"describedObject": object{"kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": s.pod},
			"metric":          object{"name": metric}, "timestamp": timestamp(), "value": quantity(s.value)})
	}
	reply(w, object{"kind": "MetricValueList", "apiVersion": customMetrics, "metadata": object{}, "items": items})
}

// ofService answers the sum over the pods that a Service leads to; no value at all when none of them has the metric.
func (a *adapter) ofService(w http.ResponseWriter, r *http.Request) {
	metric, namespace := r.PathValue("metric"), r.PathValue("namespace")
	service, err := a.client.CoreV1().Services(namespace).Get(r.Context(), r.PathValue("service"), meta.GetOptions{})
	if errors.IsNotFound(err) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	var samples []sample
	if err == nil && len(service.Spec.Selector) > 0 {
		samples, err = a.samples(r, meta.FormatLabelSelector(&meta.LabelSelector{MatchLabels: service.Spec.Selector}), "*")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	items := []object{}
	if len(samples) > 0 {
		items = append(items, object{
			"describedObject": object{"kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": r.PathValue("service")},
			"metric":          object{"name": metric}, "timestamp": timestamp(), "value": quantity(sum(samples))})
	}
	reply(w, object{"kind": "MetricValueList", "apiVersion": customMetrics, "metadata": object{}, "items": items})
}

// external answers the sum over the pods that the selector names; no value at all when none of them has the metric.
func (a *adapter) external(w http.ResponseWriter, r *http.Request) {
	metric := r.PathValue("metric")
	samples, err := a.samples(r, selector(r), "*")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	items := []object{}
	if len(samples) > 0 {
		items = append(items, object{"metricName": metric, "metricLabels": object{}, "timestamp": timestamp(), "value": quantity(sum(samples))})
	}
	reply(w, object{"kind": "ExternalMetricValueList", "apiVersion": externalMetrics, "metadata": object{}, "items": items})
}

func selector(r *http.Request) string { return r.URL.Query().Get("labelSelector") }

func sum(samples []sample) (total float64) {
	for _, s := range samples {
		total += s.value
	}
	return total
}

// samples reads the request's metric from the pods of its namespace that `selector` chooses; `pod` is one's name, or *.
func (a *adapter) samples(r *http.Request, selector, pod string) ([]sample, error) {
	metric := r.PathValue("metric")
	pods, err := a.client.CoreV1().Pods(r.PathValue("namespace")).List(r.Context(), meta.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var samples []sample
	for i := range pods.Items {
		p := &pods.Items[i]
		if pod != "*" && pod != p.Name {
			continue
		}
		value, found, err := a.scrape(r.Context(), p, metric)
		if err != nil {
			log.Printf("pod=%s/%s metric=%s %v", p.Namespace, p.Name, metric, err) // one pod less in the answer, as with any scraper
		}
		if found {
			samples = append(samples, sample{p.Name, value})
		}
	}
	return samples, nil
}

// scrape sums the pod's series of one name in the Prometheus text format.
func (a *adapter) scrape(ctx context.Context, pod *core.Pod, metric string) (sum float64, found bool, err error) {
	port := pod.Annotations["prometheus.io/port"]
	if port == "" || pod.Status.PodIP == "" || pod.Status.Phase != core.PodRunning {
		return 0, false, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(pod.Status.PodIP, port)+"/metrics", nil)
	if err != nil {
		return 0, false, err
	}
	response, err := a.http.Do(request)
	if err != nil {
		return 0, false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, false, fmt.Errorf("status %s", response.Status)
	}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		rest, ours := strings.CutPrefix(lines.Text(), metric)
		if !ours || rest == "" || (rest[0] != ' ' && rest[0] != '{') {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndexByte(rest, '}')+1:])
		if len(fields) == 0 {
			continue
		}
		value, err := strconv.ParseFloat(fields[0], 64) // a timestamp may follow it
		if err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
			return 0, false, fmt.Errorf("value %q", fields[0])
		}
		sum, found = sum+value, true
	}
	return sum, found, lines.Err()
}

func resources(group string, names ...string) object {
	list := []object{}
	for _, name := range names {
		list = append(list, object{"name": name, "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": []string{"get"}})
	}
	return object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": list}
}

func reply(w http.ResponseWriter, answer object) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Print(err) // the asker has gone
	}
}

func timestamp() string { return time.Now().UTC().Format(time.RFC3339) }

func quantity(value float64) string {
	return resource.NewMilliQuantity(int64(value*1000), resource.DecimalSI).String()
}
