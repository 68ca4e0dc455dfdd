// Reads a JSON list of Kubernetes objects and prints what is wrong with them, a line each: pods that the
// Pod Security standard refuses, by the API server's own evaluator, and fields that the Prometheus Operator's types lack.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

type object struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage `json:"spec"`
}

// The pod that the object makes; nil: none.
func pod(o object) (*corev1.PodTemplateSpec, error) {
	template := corev1.PodTemplateSpec{}
	switch o.Kind {
	case "Pod":
		template.ObjectMeta = o.ObjectMeta
		return &template, json.Unmarshal(o.Spec, &template.Spec)
	case "Deployment", "StatefulSet", "DaemonSet", "Job":
		var spec struct{ Template corev1.PodTemplateSpec }
		err := json.Unmarshal(o.Spec, &spec)
		return &spec.Template, err
	case "CronJob":
		var spec struct {
			JobTemplate struct {
				Spec struct{ Template corev1.PodTemplateSpec }
			}
		}
		err := json.Unmarshal(o.Spec, &spec)
		return &spec.JobTemplate.Spec.Template, err
	}
	return nil, nil
}

// The type that the object must fit; nil: checked elsewhere.
func typeOf(o object) any {
	if o.APIVersion != "monitoring.coreos.com/v1" {
		return nil
	}
	switch o.Kind {
	case "PodMonitor":
		return &monitoring.PodMonitor{}
	case "ServiceMonitor":
		return &monitoring.ServiceMonitor{}
	case "PrometheusRule":
		return &monitoring.PrometheusRule{}
	}
	return nil
}

func main() {
	level := flag.String("level", "restricted", "level of the Pod Security standard")
	flag.Parse()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err)
	}
	var objects []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		panic(err)
	}
	wrong := 0
	say := func(o object, what string) {
		wrong++
		fmt.Printf("%s %s: %s\n", o.Kind, o.Name, what)
	}
	for _, raw := range objects {
		var o object
		if err := json.Unmarshal(raw, &o); err != nil {
			panic(err)
		}
		if into := typeOf(o); into != nil {
			decoder := json.NewDecoder(bytes.NewReader(raw))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(into); err != nil {
				say(o, err.Error())
			}
		}
		template, err := pod(o)
		if err != nil {
			say(o, err.Error())
		} else if template != nil {
			latest := api.LevelVersion{Level: api.Level(*level), Version: api.LatestVersion()}
			for _, result := range evaluator.EvaluatePod(latest, &template.ObjectMeta, &template.Spec) {
				if !result.Allowed {
					say(o, result.ForbiddenReason+": "+result.ForbiddenDetail)
				}
			}
		}
	}
	if wrong > 0 {
		os.Exit(1)
	}
}
