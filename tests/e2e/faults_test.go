package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEachFaultNamesATest: a test that was renamed must not drop out of the run over QUIC without a word.
func TestEachFaultNamesATest(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(b)
	}
	list := strings.TrimSuffix(strings.TrimPrefix(faults, "^Test("), ")$")
	for _, name := range strings.Split(list, "|") {
		if !regexp.MustCompile(`func Test` + name + `\(t \*testing`).MatchString(source.String()) {
			t.Errorf("there is no test Test%s", name)
		}
	}
}
