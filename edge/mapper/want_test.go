package mapper

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

func TestAPropertyWhoseNameNoReportCanHaveIsNotTold(t *testing.T) {
	long := strings.Repeat("n", v1beta1.MaxPropertyName+1)
	m := &v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: v1beta1.DeviceModelSpec{Protocol: "p", Properties: []v1beta1.ModelProperty{{Name: "a"}, {Name: long}}}}
	d := &v1beta1.Device{Spec: v1beta1.DeviceSpec{DeviceModelRef: &v1beta1.ModelReference{Name: "m"}, Properties: []v1beta1.DeviceProperty{{Name: long}, {Name: "a"}}}}
	w, err := wanted(Entry{Device: d, Model: m})
	if err != nil {
		t.Fatal(err)
	}
	if told := w.device.GetSpec().GetProperties(); len(told) != 1 || told[0].GetName() != "a" {
		t.Errorf("the mapper is told of %v", told)
	}
}
