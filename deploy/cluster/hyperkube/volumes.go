package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	provisioner  = "local-volumes"
	volumeFolder = "/opt/volumes" // as a node sees it
)

// volumes provisions folders of nodes as volumes. It polls: a cluster for drills has few claims, and the
// control plane sees every node's folder, so neither a watch nor a helper pod is needed.
type volumes struct {
	client kubernetes.Interface
	state  string // holds a folder per node
}

func localVolumes() int {
	flags := flag.NewFlagSet(provisioner, flag.ExitOnError)
	config := flags.String("kubeconfig", "", "how to reach the API server")
	state := flags.String("state", "", "folder that holds a folder per node")
	flags.Parse(os.Args[1:])
	client, err := connect(*config)
	if err != nil {
		return exitCode(err)
	}
	v := volumes{client, *state}
	for ; ; time.Sleep(500 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := v.provision(ctx); err != nil {
			log.Print(err)
		}
		if err := v.reclaim(ctx); err != nil {
			log.Print(err)
		}
		cancel()
	}
}

func connect(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (v volumes) folder(node, volume string) string {
	return filepath.Join(v.state, node, volumeFolder, volume)
}

// provision makes a volume for each claim whose pod has been given a node.
func (v volumes) provision(ctx context.Context) error {
	claims, err := v.client.CoreV1().PersistentVolumeClaims("").List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for _, claim := range claims.Items {
		node := claim.Annotations["volume.kubernetes.io/selected-node"]
		if node == "" || claim.Spec.VolumeName != "" || claim.Annotations["volume.kubernetes.io/storage-provisioner"] != provisioner {
			continue
		}
		volume := v.volume(claim, node)
		folder := v.folder(node, volume.Name)
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(folder, 0o777); err != nil { // whatever the umask: any pod's user may own what is in it
			return err
		}
		_, err := v.client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{})
		if errors.IsAlreadyExists(err) {
			continue // made in an earlier round, not bound yet
		}
		if err != nil {
			return err
		}
		log.Printf("provisioned volume=%s claim=%s/%s node=%s", volume.Name, claim.Namespace, claim.Name, node)
	}
	return nil
}

func (v volumes) volume(claim core.PersistentVolumeClaim, node string) *core.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisioner}},
		Spec: core.PersistentVolumeSpec{
			StorageClassName:              *claim.Spec.StorageClassName,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			ClaimRef: &core.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource: core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: filepath.Join(volumeFolder, name)}},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
				MatchExpressions: []core.NodeSelectorRequirement{{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
}

// reclaim deletes the volumes whose claims are gone, and what was in them.
func (v volumes) reclaim(ctx context.Context) error {
	list, err := v.client.CoreV1().PersistentVolumes().List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for _, volume := range list.Items {
		if volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisioner || volume.Status.Phase != core.VolumeReleased ||
			volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
			continue
		}
		node := volume.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]
		if err := os.RemoveAll(v.folder(node, volume.Name)); err != nil {
			return err
		}
		if err := v.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{}); err != nil && !errors.IsNotFound(err) {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
		log.Printf("deleted volume=%s node=%s", volume.Name, node)
	}
	return nil
}
