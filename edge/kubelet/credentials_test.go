package kubelet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAPodsPullSecretsAreWhatTheKubeletShows(t *testing.T) {
	t.Setenv("HOME", t.TempDir()) // the node's own credentials
	t.Chdir(t.TempDir())
	secret := corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(
		`{"auths":{"reg.example:5000":{"username":"ann","password":"secret"},"other.example":{"username":"bob","password":"x"}}}`)}}
	got, err := PullCredentials("reg.example:5000/shop/till:v1", []corev1.Secret{secret})
	if err != nil || len(got) != 1 || got[0].Username != "ann" || got[0].Password != "secret" {
		t.Errorf("shows %v, %v, expected ann's", got, err)
	}
	if got, err = PullCredentials("reg.example:5000/shop/till:v1", nil); err != nil || len(got) != 0 {
		t.Errorf("without a secret: %v, %v, expected none", got, err)
	}
	secret.Data[corev1.DockerConfigJsonKey] = []byte("{")
	if _, err = PullCredentials("reg.example:5000/shop/till", []corev1.Secret{secret}); err == nil {
		t.Error("a Secret that cannot be read is none")
	}
	if _, err = PullCredentials("NO NAME", nil); err == nil {
		t.Error("a name that is none has credentials")
	}
}

// What the logs of a container may take is judged with these figures; the kubelet's own must be the same.
func TestTheKubeletsBoundOfLogsIsKnown(t *testing.T) {
	s, err := stockOptions(validConfig(), Host{SysResource: true}, CgroupDriverCgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	if s.ContainerLogMaxSize != "10Mi" || s.ContainerLogMaxFiles != 5 || LogsOfAContainer != 5*10<<20 || s.PodLogsDir != PodLogsDir {
		t.Errorf("the kubelet keeps %d files of %s in %s, here %d bytes in %s are reckoned with", s.ContainerLogMaxFiles, s.ContainerLogMaxSize, s.PodLogsDir, LogsOfAContainer, PodLogsDir)
	}
}
