package transport

import (
	"fmt"
	"net/http"
	"net/url"
)

// A Proxy tells which HTTP proxy a request goes through; nil, or a nil URL, is none.
type Proxy func(*http.Request) (*url.URL, error)

// For reports whether connections to a hub at host:port go through a proxy.
func (p Proxy) For(address string) (bool, error) {
	if p == nil {
		return false, nil
	}
	u, err := p(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	return u != nil, err
}

// ParseProxy reads a setting: empty for what the environment says (HTTPS_PROXY, NO_PROXY), "none", or the URL of a proxy
// that knows CONNECT, with credentials where it wants some: http://user:password@proxy:3128.
func ParseProxy(setting string) (Proxy, error) {
	switch setting {
	case "":
		return http.ProxyFromEnvironment, nil
	case "none":
		return nil, nil
	}
	u, err := url.Parse(setting)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" {
		// The error of url.Parse shows the password.
		return nil, fmt.Errorf("proxy: expected none, or a URL such as http://user:password@proxy.example:3128, found something else")
	}
	return http.ProxyURL(u), nil
}
