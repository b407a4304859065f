package stack

import (
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.com/auditlog/deploy"
)

// chPaths are the files of ClickHouse below the data folder.
type chPaths struct {
	conf string // config.xml, users.xml and the embedded files beside them
	data string // what ClickHouse stores
	log  string // its standard error
}

func clickHousePaths(dir string) chPaths {
	root := filepath.Join(dir, "clickhouse")
	return chPaths{
		conf: filepath.Join(root, "conf"),
		data: filepath.Join(root, "data"),
		log:  filepath.Join(root, "clickhouse.log"),
	}
}

// configXML is what the stack itself decides; everything else is in the embedded files that
// ClickHouse merges over it. A server that is stopped waits a second, not five, for
// connections that clients keep open. %[5]s tells our own server from a stranger on the same port.
const configXML = `<clickhouse>
    <path>%[1]s/</path>
    <tmp_path>%[1]s/tmp/</tmp_path>
    <user_files_path>%[1]s/user_files/</user_files_path>
    <format_schema_path>%[1]s/format_schemas/</format_schema_path>
    <users_config>%[2]s</users_config>
    <listen_host>127.0.0.1</listen_host>
    <tcp_port>%[3]d</tcp_port>
    <http_port>%[4]d</http_port>
    <shutdown_wait_unfinished>1</shutdown_wait_unfinished>
    <macros><stack>%[5]s</stack></macros>
</clickhouse>
`

// usersXML is the skeleton over which users.d is merged.
const usersXML = `<clickhouse>
    <profiles><default/></profiles>
    <users><default><password></password></default></users>
    <quotas><default/></quotas>
</clickhouse>
`

// writeClickHouseConfig writes all configuration below p.conf and returns the token by which a
// server that runs with it can be told from any other.
func writeClickHouseConfig(p chPaths, port, httpPort int) (token string, err error) {
	for _, dir := range []string{p.data, filepath.Join(p.conf, "config.d"), filepath.Join(p.conf, "users.d")} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return "", fmt.Errorf("make ClickHouse folder: %w", err)
		}
	}
	token = rand.Text()
	users := filepath.Join(p.conf, "users.xml")
	config := fmt.Sprintf(configXML, xmlText(p.data), xmlText(users), port, httpPort, token)
	for path, text := range map[string]string{filepath.Join(p.conf, "config.xml"): config, users: usersXML} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("write ClickHouse configuration: %w", err)
		}
	}
	for path, embedded := range map[string]string{
		filepath.Join(p.conf, "config.d", "audit.xml"):   deploy.ClickHouseConfig,
		filepath.Join(p.conf, "users.d", "audit.xml"):    deploy.ClickHouseUsers,
		filepath.Join(p.conf, "users.d", "analysts.xml"): deploy.ClickHouseAnalysts,
	} {
		if err := writeFile(path, embedded); err != nil {
			return "", err
		}
	}
	return token, nil
}

func xmlText(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder does not fail
	return b.String()
}
