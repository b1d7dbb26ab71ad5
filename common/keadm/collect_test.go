package keadm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// unpack returns the texts of the one bundle in dir by their names in it.
func unpack(t *testing.T, dir string) map[string]string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "tether-*.tar.gz"))
	if err != nil || len(found) != 1 {
		t.Fatalf("expected one archive, found %q, %v", found, err)
	}
	info, err := os.Stat(found[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive has mode %v, %v; expected 0600", info.Mode(), err)
	}
	f, err := os.Open(found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	top := strings.TrimSuffix(filepath.Base(found[0]), ".tar.gz")
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name, below := strings.CutPrefix(h.Name, top+"/")
		if !below {
			t.Errorf("%s is not below %s", h.Name, top)
		}
		out[name] = string(text)
	}
}

// base64ed are the lines of a PEM file that are the secret itself.
func base64ed(pem []byte) []string {
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(pem)), "\n"), func(s string) bool { return strings.HasPrefix(s, "-----") })
}

func TestABundleHoldsNoSecret(t *testing.T) {
	const (
		password   = "Pr0xyPassw0rd"
		inAComment = "0ldPassw0rd"
		envPass    = "0therPassw0rd"
		basic      = "ZWRnZTpQcjB4eVBhc3N3MHJk" // edge:Pr0xyPassw0rd
		bearer     = "bearerabcdefghijklmnop"
		join       = "joinsecretabcdefghijklmn234567"
		jwt        = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
	)
	t.Setenv("HTTPS_PROXY", "http://edge:"+envPass+"@proxy.invalid:3128")
	ca := newCA(t, time.Now)
	files := node(t, ca, "edge-1", time.Hour)
	cfg := edgecore(t, files, strings.Replace(allWell, `"session":"s"`, `"problem":"proxyconnect http://edge:`+password+`@proxy:3128: `+password+`"`, 1), joinPort(t, ca))
	cfg.Cloud.Proxy = "http://edge:" + password + "@127.0.0.1:1"
	writeEdgeConfig(t, files, cfg)
	written, err := os.ReadFile(files.config)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Dir(files.config), "edgecore.yaml", "# last year's was "+inAComment+"\n"+string(written))
	key, err := os.ReadFile(files.key())
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(filepath.Join(files.data, "pki")); err != nil {
		t.Fatal(err)
	}
	caKey, err := os.ReadFile(filepath.Join(files.data, "pki", "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := slices.Concat([]string{password, inAComment, envPass, basic, bearer, join, jwt, "kubeconfigpassword"}, base64ed(key), base64ed(caKey))
	kubeconfig := "users:\n- user:\n    client-key-data: LS0tLS1CRUdJTi\n    token: " + bearer + "\n    password: kubeconfigpassword\n"
	put(t, files.data, "admin.kubeconfig", kubeconfig)
	put(t, files.data, "run/edgecore.log", strings.Join([]string{
		"level=WARN msg=\"link is down\" error=\"proxyconnect tcp: http://edge:" + password + "@127.0.0.1:1: refused\"",
		"Proxy-Authorization: Basic " + basic, basic, "Authorization: Bearer " + bearer, "https://edge:" + envPass + "@proxy.invalid", envPass,
		"keadm join --token " + strings.Repeat("ab", 32) + ".abcdefgh." + join, jwt, string(key), strings.ReplaceAll(string(caKey), "\n", `\n`), kubeconfig, "the last line",
	}, "\n")+"\n")
	dir := t.TempDir()
	code, out, errOut := call(t, time.Now(), "debug", "collect", "--config", files.config, "--output-path", dir)
	if code != 0 || !strings.Contains(out, "wrote    "+dir+"/tether-edge-1-") {
		t.Fatalf("exit %d\n%s%s", code, out, errOut)
	}
	bundle := unpack(t, dir)
	for name, text := range bundle {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %q:\n%s", name, secret, text)
			}
		}
	}
	for name, want := range map[string]string{
		"edgecore.yaml": "proxy: http://***@127.0.0.1:1", "status.json": `"protocol":"quic"`, "metrics.txt": "tether_link_connected 1", "edgecore.log": "the last line",
		"versions.txt": "keadm dev", "certificates.txt": files.cert() + ": CN=system:node:edge-1,O=system:nodes, from ", "findings.json": `"diagnose": {`,
	} {
		if !strings.Contains(bundle[name], want) {
			t.Errorf("expected %q in %s:\n%s", want, name, bundle[name])
		}
	}
	if len(bundle) != 7 {
		t.Errorf("the bundle holds %q", slices.Sorted(maps.Keys(bundle)))
	}
	if !strings.Contains(bundle["certificates.txt"], filepath.Join(files.data, "pki", "ca.crt")+": ") || !strings.Contains(bundle["edgecore.log"], "abcdefgh.***") {
		t.Errorf("certificates:\n%s\nlog:\n%s", bundle["certificates.txt"], bundle["edgecore.log"])
	}
}

func TestABundleIsMadeOfWhatThereIs(t *testing.T) {
	for name, c := range map[string]struct{ config, file, holds string }{
		"no configuration":     {"", "missing.txt", "edgecore.yaml: open "},
		"a faulty one":         {"nodeName: ../x\ncloud:\n  proxy: edge:Pr0xy Passw0rd@somewhere\n  servers: [a]\n", "edgecore.yaml", "servers:\n  - a\n"},
		"a faulty one in flow": {"cloud: {servers: [a], \"proxy\": \"edge:Pr0xy, Passw0rd@somewhere\"}\n", "edgecore.yaml", "servers:\n  - a\n"},
		"no YAML at all":       {"\tproxy: 'edge:Pr0xy Passw0rd@somewhere\n\tkind: EdgeCore # 0ldPassw0rd\n#Passw0rd", "edgecore.yaml", "proxy: ***\n\tkind: EdgeCore\n"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "edgecore.yaml")
		if c.config != "" {
			put(t, dir, "edgecore.yaml", c.config)
		}
		code, out, errOut := call(t, today, "debug", "collect", "--config", path, "--output-path", dir)
		if code != 0 || !strings.Contains(out, "tether-unknown-20300601T120000Z.tar.gz") || !strings.Contains(errOut, path) {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errOut)
			continue
		}
		bundle := unpack(t, dir)
		if !strings.Contains(bundle[c.file], c.holds) || !strings.Contains(bundle["missing.txt"], "status.json: ") || bundle["versions.txt"] == "" {
			t.Errorf("%s: expected %q in %s of %q", name, c.holds, c.file, bundle)
		}
		for file, text := range bundle {
			if strings.Contains(text, "Passw0rd") {
				t.Errorf("%s: %s holds the password:\n%s", name, file, text)
			}
		}
	}
}

func TestABundleHoldsTheEndOfALongLog(t *testing.T) {
	s := &service{kind: serviceProcess, name: "edgecore", state: t.TempDir()}
	line := strings.Repeat("x", 99) + "\n"
	put(t, s.state, "edgecore.log", "first\n"+strings.Repeat(line, 50)+"last\n")
	got, err := s.log(t.Context(), 1000)
	if want := strings.Repeat(line, 9) + "last\n"; err != nil || string(got) != want {
		t.Errorf("%v\n%s\nexpected\n%s", err, got, want)
	}
	// A log that was turned over just now has its end in the former one.
	put(t, s.state, "edgecore.log.1", "first\n"+strings.Repeat(line, 50))
	put(t, s.state, "edgecore.log", "last\n")
	if got, err = s.log(t.Context(), 1000); err != nil || string(got) != strings.Repeat(line, 9)+"last\n" {
		t.Errorf("over two files: %v\n%s", err, got)
	}
	b := &bundle{}
	b.add("f", 1000, []byte("first\n"+strings.Repeat(line, 50)+"last\n\xff"), nil)
	if text := b.files[0].text; len(text) > 1000 || !strings.HasSuffix(text, line+"last\n?") || !strings.HasPrefix(text, line) {
		t.Errorf("a file of at most 1000 bytes has %d:\n%s", len(text), text)
	}
}

// The journal is read from its end, by the one program that can.
func TestTheJournalIsReadWhereSystemdRunsEdgecore(t *testing.T) {
	root := t.TempDir()
	s := &service{kind: serviceSystemd, name: "edgecore", state: root, units: root}
	if _, err := s.log(t.Context(), 100); err == nil || !strings.Contains(err.Error(), s.logFile()) {
		t.Errorf("no log at all: %v", err)
	}
	put(t, root, "edgecore.service", "")
	put(t, root, "bin/journalctl", "#!/bin/sh\ncase \"$*\" in *--unit\\ edgecore*--reverse*) printf 'third\\nsecond\\nfirst, and more than fits\\n';; esac\n")
	if err := os.Chmod(filepath.Join(root, "bin/journalctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(root, "bin"))
	if got, err := s.log(t.Context(), 20); err != nil || !bytes.Equal(got, []byte("second\nthird\n")) {
		t.Errorf("read %q, %v", got, err)
	}
}
