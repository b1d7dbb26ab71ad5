package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// fakeApt records the calls of apt-get and fails those whose first word is in fail.
type fakeApt struct {
	calls [][]string
	fail  map[string]error
}

func (f *fakeApt) run(_ context.Context, _ io.Writer, args ...string) error {
	f.calls = append(f.calls, args)
	return f.fail[args[0]]
}

func detected(t *testing.T, name string) *Host {
	t.Helper()
	h, err := Detect("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// complete is a machine that lacks nothing.
func complete(t *testing.T) *Host {
	h := detected(t, "ubuntu2404-user")
	h.Root, h.SysAdmin = true, true
	return h
}

func TestInstallSaysWhatItInstallsAndInstallsOnlyThat(t *testing.T) {
	var out bytes.Buffer
	apt := &fakeApt{}
	after, err := install(t.Context(), detected(t, "debian12-hybrid-no-sys-resource"), &out, io.Discard, apt.run, func() (*Host, error) { return complete(t), nil })
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Missing()) != 0 {
		t.Errorf("expected the machine as it is afterwards, found missing %v", after.Missing())
	}
	if !strings.Contains(out.String(), strings.Join(allPackages, " ")) {
		t.Errorf("expected the packages to be announced, found %q", out.String())
	}
	want := append([]string{"install", "--yes", "--no-install-recommends"}, allPackages...)
	if len(apt.calls) != 2 || apt.calls[0][0] != "update" || !slices.Equal(apt.calls[1], want) {
		t.Errorf("expected update and then %v, found %v", want, apt.calls)
	}
}

func TestInstallRunsNothingWhereNothingIsMissing(t *testing.T) {
	apt := &fakeApt{}
	h := complete(t)
	after, err := install(t.Context(), h, io.Discard, io.Discard, apt.run, nil)
	if err != nil || after != h || len(apt.calls) != 0 {
		t.Errorf("expected no call, found %v, %v", apt.calls, err)
	}
}

func TestInstallFailureNamesPackagesAndBothCauses(t *testing.T) {
	apt := &fakeApt{fail: map[string]error{"update": errors.New("no network"), "install": errors.New("no such package")}}
	_, err := install(t.Context(), detected(t, "debian13-systemd-v2"), io.Discard, io.Discard, apt.run, nil)
	for _, words := range []string{"containerd runc iptables", "no network", "no such package", "by hand"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("expected an error that says %q, found %v", words, err)
		}
	}
}

func TestInstallGoesOnWithAStaleIndex(t *testing.T) {
	apt := &fakeApt{fail: map[string]error{"update": errors.New("no network")}}
	if _, err := install(t.Context(), detected(t, "debian13-systemd-v2"), io.Discard, io.Discard, apt.run, func() (*Host, error) { return complete(t), nil }); err != nil {
		t.Errorf("expected packages that could be installed to be enough, found %v", err)
	}
}

func TestInstallFindsThatAPackageBroughtNoProgram(t *testing.T) {
	before := detected(t, "debian13-systemd-v2")
	_, err := install(t.Context(), before, io.Discard, io.Discard, (&fakeApt{}).run, func() (*Host, error) { return before, nil })
	if err == nil || !strings.Contains(err.Error(), "still missing: containerd, ctr, runc") {
		t.Errorf("expected an error that names the programs, found %v", err)
	}
}

func TestInstallChangesNothingOnAnUnusableMachine(t *testing.T) {
	apt := &fakeApt{}
	if _, err := install(t.Context(), detected(t, "raspbian10-v1-no-memory"), io.Discard, io.Discard, apt.run, nil); err == nil || len(apt.calls) != 0 {
		t.Errorf("expected a refusal before any call, found %v, %v", apt.calls, err)
	}
}
