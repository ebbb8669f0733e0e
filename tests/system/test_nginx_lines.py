"""That the tests of the proxy bite: with a line of the configuration gone or weakened, the check
that belongs to it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import require
from nginx import Change, available, running_site
from nginx_checks import (
    BACKUP,
    FOREIGN,
    LIMITED,
    OPEN,
    PAIR,
    Check,
    answers,
    caching,
    changes,
    files,
    identity,
    limits,
    slowness,
    tls,
    upstreams,
)

pytestmark = pytest.mark.alone


@dataclass(frozen=True, eq=False)
class Line:
    """What is there, what is put in its place, and the check that has to notice."""

    old: str
    new: str | None  # None: the whole line is gone
    check: Check
    environment: Mapping[str, str]
    kind: str = "installed"
    base: tuple[Change, ...] = ()  # what the check needs besides

    def __str__(self) -> str:
        words = " ".join(self.old.split())[:40]
        return f"{words}-{self.check.__name__}"


def gone(line: str, check: Check, environment: Mapping[str, str] = OPEN) -> Line:
    return Line(line, None, check, environment)


def became(old: str, new: str, check: Check, environment: Mapping[str, str] = OPEN) -> Line:
    return Line(old, new, check, environment)


HEADERS = {
    "Strict-Transport-Security    $add_hsts        always;",
    "Content-Security-Policy      $add_policy      always;",
    "X-Content-Type-Options       $add_nosniff     always;",
    "X-Frame-Options              $add_frames      always;",
    "Referrer-Policy              $add_referrer    always;",
    "Cross-Origin-Opener-Policy   $add_opener      always;",
    "Cross-Origin-Resource-Policy $add_resource    always;",
    "Permissions-Policy           $add_permissions always;",
}
NOSNIFF = '{ volatile; "" "nosniff";     default ""; }'
ERRORS = "error_page 400 403 404 405 412 413 414 416 421 429 500 502 503 504 /_problem;"
ANSWERS = [
    *(
        gone(f"add_header {line}", answers.security_headers_come_with_an_answer_of_the_app)
        for line in sorted(HEADERS)
    ),
    became(
        "$add_nosniff     always;",
        "$add_nosniff;",
        answers.security_headers_come_with_an_error_of_the_app,
    ),
    became(
        NOSNIFF,
        NOSNIFF.replace('default ""', 'default "nosniff"'),
        answers.security_headers_that_the_app_sent_come_once,
    ),
    became(
        '"" $policy;       default "";',
        '"" $policy;       default $policy;',
        answers.the_apps_own_policy_is_kept,
    ),
    became(
        "        location = /nginx-health {",
        "        add_header X-Own 1;\n        location = /nginx-health {",
        answers.security_headers_come_inside,
    ),
    became(
        NOSNIFF, NOSNIFF.replace("volatile;", ""), files.a_range_that_cannot_be_had_is_a_problem
    ),
    gone('"/_problem 416" 1;', files.a_range_that_cannot_be_had_is_a_problem),
    gone("max_ranges       0;", files.static_files_have_no_ranges),
    gone('~^/_media/ "default-src', files.media_are_harmless_on_this_origin),
    gone("server_tokens off;", answers.no_version_is_told),
    gone("proxy_hide_header             X-Powered-By;", answers.no_version_is_told),
    gone("proxy_hide_header             X-Request-ID;", answers.a_request_id_of_the_app_comes_once),
    gone("proxy_set_header X-Request-ID       $id;", answers.a_malformed_request_id_is_replaced),
    gone('"~^[A-Za-z0-9._-]{8,64}$" $http_x_request_id;', answers.a_request_id_is_kept),
    became("{8,64}$", "{8,}", answers.a_malformed_request_id_is_replaced),
    gone(ERRORS, answers.what_is_not_there_is_a_problem),
    gone("error_page 494      =431 /_problem;", answers.a_long_header_is_a_problem),
    gone("error_page 495 496 497 =400 /_problem;", answers.plain_http_on_the_tls_port_is_a_problem),
    gone("error_page 501 505     =400 /_problem;", answers.an_unknown_coding_is_the_clients_fault),
    gone("error_page 501 505     =400 /_problem;", answers.an_unknown_version_is_the_clients_fault),
    gone("default_type application/problem+json;", answers.what_is_not_there_is_a_problem),
    became('"detail": "$problem_detail", ', "", answers.what_is_not_there_is_a_problem),
    gone("~^50[234] 2;", answers.an_upstream_that_hangs_up_is_a_problem),
    gone('"~^[45]"', answers.errors_of_the_app_pass),
    gone('~^/_problem: "no-store";', files.media_that_are_missing_are_a_problem),
    became(
        "return 421;", "proxy_pass http://app;", answers.another_host_in_the_request_is_a_problem
    ),
    became(
        "proxy_redirect                off;",
        "proxy_intercept_errors on;",
        answers.errors_of_the_app_pass,
    ),
]
DROPPED = ("Forwarded              ", "X-Original-URL         ", "Proxy                  ")
IDENTITY = [
    became(
        "X-Forwarded-For    $remote_addr;",
        "X-Forwarded-For    $proxy_add_x_forwarded_for;",
        identity.what_a_client_says_of_itself_is_overwritten,
    ),
    *(
        gone(f"proxy_set_header {line}", identity.what_a_client_says_of_itself_is_overwritten)
        for line in (
            "X-Forwarded-Proto  $scheme;",
            "X-Forwarded-Host   $asked_host;",
            "X-Forwarded-Port   ${PUBLIC_HTTPS_PORT};",
            "X-Real-IP          $remote_addr;",
            "Host               $asked_host;",
        )
    ),
    *(
        gone(f'proxy_set_header {line}"";', identity.what_some_framework_believes_is_dropped)
        for line in DROPPED
    ),
    became(
        '"$host${PORT_SUFFIX}";', "$http_host;", identity.the_port_of_the_request_is_not_believed
    ),
    gone('proxy_set_header Accept-Encoding    "";', identity.compression_is_not_asked_of_the_app),
    gone("set_real_ip_from  ${TRUSTED_PROXIES};", identity.a_load_balancer_is_believed, LIMITED),
    gone("real_ip_recursive on;", identity.a_load_balancer_is_believed, LIMITED),
    gone("real_ip_header    X-Forwarded-For;", identity.a_load_balancer_is_believed, LIMITED),
    gone("proxy_set_header Upgrade            $upgrade_header;", identity.websockets_are_passed),
    became('"~^/ws/[^ ]+ (?i)', '"~(?i)', identity.other_paths_are_no_websockets),
    became(
        '(?i)websocket$" websocket;', '(?<p>.+)$" $p;', identity.other_protocols_are_no_websockets
    ),
    became(
        '"~^(?<bare>[!->@-~]*)" $bare;',
        "default $request_uri;",
        identity.the_log_has_no_query_and_no_referrer,
    ),
    became(
        '"user_agent":"$agent"',
        '"user_agent":"$http_user_agent"',
        identity.the_log_is_json_whatever_is_sent,
    ),
    became(
        "log_format json escape=json", "log_format json", identity.the_log_is_json_whatever_is_sent
    ),
    became(
        '"status":$told_status',
        '"status":$status',
        identity.the_log_is_json_where_nothing_was_answered,
    ),
    became(" if=$logged", "", identity.probes_that_pass_are_not_logged),
    became("emerg;", "error;", identity.no_token_is_in_the_error_log),
    became("emerg;", "crit;", identity.no_token_is_in_the_error_log),
    became(
        "return 444;",
        "return 308 https://$host$request_uri;",
        identity.unknown_names_get_no_answer_on_the_plain_port,
    ),
    became("return 308", "return 301", identity.http_leads_to_https),
    became(
        "https://$host${PORT_SUFFIX}$request_uri",
        "https://$host$request_uri",
        identity.http_leads_to_https,
    ),
    gone("root             ${ACME_FOLDER};", identity.acme_challenges_are_answered_over_http),
    gone(
        "disable_symlinks on from=${ACME_FOLDER};", identity.acme_challenges_are_answered_over_http
    ),
    became(
        "location ^~ /health/ {", "location ^~ /elsewhere/ {", identity.what_is_inside_is_not_public
    ),
    became(
        "location ^~ /metrics {", "location ^~ /elsewhere {", identity.what_is_inside_is_not_public
    ),
    gone("${INTERNAL_PORT} ${INTERNAL_HOST};", identity.probes_and_metrics_are_inside),
    gone("deny  all;", identity.strangers_are_not_inside, FOREIGN),
    became(
        "(health(/(live|ready|startup|detailed))?|metrics)$", "", identity.nothing_else_is_inside
    ),
]
LIMITS = [
    gone("limit_req  zone=api         burst=20  nodelay;", limits.the_api_is_limited, LIMITED),
    became("burst=20  nodelay;", "burst=20;", limits.the_api_is_limited, LIMITED),
    gone(
        "limit_req  zone=credentials burst=5   nodelay;", limits.logging_in_is_limited_more, LIMITED
    ),
    gone("limit_req  zone=files       burst=200 nodelay;", limits.files_are_limited_too, LIMITED),
    gone("limit_conn connections 128;", limits.a_client_has_so_many_requests_at_once, LIMITED),
    # media: from here
    gone("limit_conn uploads     16;", limits.a_client_sends_so_many_uploads_at_once),
    gone("limit_conn all_uploads 400;", limits.all_send_so_many_uploads_at_once, LIMITED),
    became(
        '"POST:/api/media" $client',
        '"POST:/api/media" ""',
        limits.a_client_sends_so_many_uploads_at_once,
    ),
    # media: to here
    gone("limit_req_status     429;", limits.a_refusal_says_when_to_come_back, LIMITED),
    gone("429     1;", limits.a_refusal_says_when_to_come_back, LIMITED),
    became(
        "GET |HEAD |OPTIONS ", "OPTIONS ", limits.reading_is_not_limited_as_logging_in_is, LIMITED
    ),
    became(
        "|api/accounts(/.*)?)",
        ")",
        limits.what_sends_mail_or_checks_a_secret_is_limited_more,
        LIMITED,
    ),
    gone('"~^[^ ]+ /static/"', limits.files_are_not_limited_as_the_api_is, LIMITED),
    became(
        '"$request_method $uri" $budget',
        '"$request_method $request_uri" $budget',
        limits.a_disguised_login_is_limited_as_well,
        LIMITED,
    ),
    gone(
        '"~(?s)^(?<network>.{8}).{8}$" $network;',
        limits.ipv6_clients_are_counted_by_network,
        LIMITED,
    ),
    # media: from here
    gone('"~^[^ ]+ /media/"', limits.a_gallery_is_not_limited_as_the_api_is, LIMITED),
    gone("client_max_body_size ${UPLOAD_BYTES};", limits.uploads_may_be_as_large_as_the_app_takes),
    became(
        "client_max_body_size ${UPLOAD_BYTES};",
        "client_max_body_size 0;",
        limits.uploads_are_limited,
    ),
    gone("if ($request_method != POST)", limits.what_is_no_upload_is_as_small_as_all_else),
    became(
        "internal;\n            proxy_pass http://app$request_uri;",
        "proxy_pass http://app$request_uri;",
        limits.what_is_no_upload_is_as_small_as_all_else,
    ),
    became(
        "http://app$request_uri;",
        "http://app;",
        limits.what_is_no_upload_is_as_small_as_all_else,
    ),
    # media: to here
    gone("client_max_body_size        64k;", limits.other_bodies_are_small),
    gone("client_body_buffer_size     64k;", limits.a_password_never_touches_a_disk),
    became(
        "client_max_body_size        64k;",
        "client_max_body_size 64k; proxy_request_buffering off;",
        limits.the_app_gets_whole_bodies_alone,
    ),
    *(
        Line(str(short), None, check, OPEN, base=slowness.SHORT)
        for (_, short), check in zip(
            slowness.SHORT,
            (
                slowness.a_slow_head_is_dropped,
                slowness.a_slow_body_is_dropped,
                slowness.a_slow_reader_is_dropped,
            ),
            strict=True,
        )
    ),
    became(
        "proxy_max_temp_file_size      64m;",
        "proxy_max_temp_file_size 0;",
        slowness.a_slow_reader_does_not_hold_up_the_app,
    ),
]
UPSTREAMS = [
    gone("proxy_set_header Connection         $connection_header;", upstreams.connections_are_kept),
    gone("keepalive         256;", upstreams.connections_are_kept),
    became(
        "keepalive_timeout 4s;",
        "keepalive_timeout 60s;",
        upstreams.nginx_closes_idle_connections_first,
    ),
    became("${UPSTREAM} max_fails=0;", "${UPSTREAM};", upstreams.a_failure_takes_nobody_out, PAIR),
    became(
        "error timeout;\n    proxy_next_upstream_tries",
        "error timeout non_idempotent;\n    proxy_next_upstream_tries",
        upstreams.a_post_that_was_sent_is_not_sent_again,
        PAIR,
    ),
    Line(
        "proxy_next_upstream_timeout   4s;",
        None,
        upstreams.a_slow_request_is_not_asked_twice,
        PAIR,
        base=(upstreams.SHORT_READ,),
    ),
    became(
        "proxy_next_upstream           error timeout;",
        "proxy_next_upstream off;",
        upstreams.the_backup_takes_over_at_once,
        BACKUP,
    ),
    became("max_fails=0 backup;", "max_fails=0;", upstreams.the_backup_is_not_asked, BACKUP),
    Line("keepalive_min_timeout       2s;", None, changes.a_reload_fails_no_request, OPEN, "image"),
]
CACHE = [
    became(
        "$scheme://$host$request_uri;",
        "$scheme://$request_uri;",
        caching.hosts_do_not_share_answers,
    ),
    became(
        "$scheme://$host$request_uri;", "$scheme://$host$uri;", caching.queries_do_not_share_answers
    ),
    gone("proxy_cache_bypass            $personal;", caching.nobody_gets_what_another_was_given),
    became("$personal $unmarked;", "$unmarked;", caching.nobody_gets_what_another_was_given),
    became("$personal $unmarked;", "$personal;", caching.answers_that_are_not_marked_are_not_kept),
    became("$personal $unmarked;", "$personal;", caching.other_ways_to_mark_an_answer_do_not_count),
    became(
        "proxy_cache_lock      on;",
        "proxy_ignore_headers Set-Cookie;",
        caching.answers_with_a_cookie_are_not_kept,
    ),
    gone("proxy_cache_lock      on;", caching.many_who_ask_at_once_cost_one_request),
    became(" error timeout http_500", " http_500", caching.an_old_answer_is_better_than_none),
    *(
        became(f" http_{status}", "", caching.an_old_answer_is_better_than_an_error)
        for status in (500, 502, 503, 504)
    ),
    became(
        " error timeout http_500",
        " updating error timeout http_500",
        caching.an_old_answer_is_not_given_because_another_asks,
    ),
    became(
        "proxy_cache_use_stale error",
        "proxy_cache_background_update on; proxy_cache_use_stale updating error",
        caching.an_old_answer_is_not_given_when_there_is_a_new_one,
    ),
    gone(
        "proxy_cache_revalidate        on;",
        caching.an_answer_that_has_not_changed_is_not_sent_again,
    ),
    gone("proxy_cache                   public;", caching.public_answers_are_kept),
    # media: from here
    gone(
        "proxy_cache           previews;",
        caching.a_preview_that_is_gone_takes_the_old_ones_place,
    ),
    Line(
        "proxy_cache           previews;",
        "proxy_cache public;",
        caching.made_up_pages_push_out_no_preview,
        OPEN,
        base=caching.SMALL,
    ),
    # media: to here
]
CIPHERS = "ssl_ciphers               ECDHE-ECDSA-AES128-GCM-SHA256:"
TLS = [
    gone("client_max_body_size 0;", tls.errors_over_http2_are_problems),
    became(
        "ssl_reject_handshake on;",
        "ssl_certificate ${TLS_CERTIFICATE}; ssl_certificate_key ${TLS_KEY};",
        tls.unknown_names_get_no_handshake,
    ),
    gone("ssl_session_tickets       off;", tls.sessions_have_no_tickets),
    became("ssl http2", "ssl", tls.http2_is_spoken),
    Line("http2 on;", None, tls.http2_is_spoken, OPEN, "image"),
    Line(
        "ssl_protocols             TLSv1.2 TLSv1.3;",
        "ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;",
        tls.old_versions_are_not_spoken,
        OPEN,
        base=((CIPHERS, "ssl_ciphers ALL:@SECLEVEL=0:"),),
    ),
    became(CIPHERS, f"{CIPHERS}ECDHE-ECDSA-AES128-SHA:", tls.nothing_weak_is_spoken),
    became(
        "X25519:prime256v1:secp384r1;",
        "X25519:X448:prime256v1:secp384r1;",
        tls.nothing_weak_is_spoken,
    ),
    Line("?X25519MLKEM768:", "", tls.keys_are_agreed_on_against_quantum_computers, OPEN, "image"),
    Line(
        "add_header Alt-Svc $add_alternative always;",
        None,
        answers.http3_is_offered_at_the_public_port,
        OPEN,
        "image",
    ),
]
FILES = [
    gone("try_files        $uri @static_of_the_app;", files.what_is_not_there_is_asked_of_the_app),
    gone("gzip_static      on;", files.static_files_are_sent_as_they_were_compressed),
    gone("charset          utf-8;", files.static_files_are_kept_for_ever),
    became(
        "server_tokens off;",
        "charset utf-8; server_tokens off;",
        files.media_are_harmless_on_this_origin,
    ),
    gone("disable_symlinks on from=${STATIC_FOLDER};", files.links_are_not_followed),
    gone("disable_symlinks on from=${MEDIA_FOLDER};", files.links_are_not_followed),
    became(
        "            internal;\n            alias",
        "            alias",
        files.nobody_asks_for_the_folder_itself,
    ),
    became(
        '"public, max-age=31536000, immutable"',
        '"public, max-age=3600"',
        files.static_files_are_kept_for_ever,
    ),
    became("gzip            off;", "gzip on;", files.answers_with_secrets_are_not_compressed),
    became(
        "            gzip       on;\n            proxy_pass http://app;\n        }\n\n",
        "            proxy_pass http://app;\n        }\n\n",
        files.public_answers_are_compressed,
    ),
    gone("gzip_vary       on;", files.static_files_are_kept_for_ever),
]
LINES = [*ANSWERS, *IDENTITY, *LIMITS, *UPSTREAMS, *CACHE, *TLS, *FILES]


def outcome(line: Line, directory: Path) -> None:
    """Run a check on a site without its line."""
    changes = (*line.base, (line.old, line.new))
    with running_site(directory, line.kind, line.environment, changes) as site:
        line.check(site)


@pytest.fixture(scope="module")
def outcomes(
    nginx_directory: Path, request: pytest.FixtureRequest
) -> Iterator[dict[Line, Future[None]]]:
    """Of all lines that are to be tested, a few at a time: most of them wait most of the time."""
    tested = [item for item in request.session.items if isinstance(item, pytest.Function)]
    lines = [item.callspec.params["line"] for item in tested if item.name.startswith(TEST)]
    ready = [line for line in lines if missing(line) is None]
    with ThreadPoolExecutor(4) as threads:
        yield {
            line: threads.submit(outcome, line, nginx_directory / f"line-{number}")
            for number, line in enumerate(ready)
        }
        threads.shutdown(cancel_futures=True)


def missing(line: Line) -> str | None:
    """The name of what this machine lacks to test it."""
    if available(line.kind) is None:
        return f"nginx ({line.kind})"
    scans = line.check in tls.SCANS and tls.sslscan() is None
    return "sslscan" if scans else None


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_check_notices(line: Line, outcomes: dict[Line, Future[None]]) -> None:
    if lacking := missing(line):
        require(None, lacking)
    wait([outcomes[line]], 100)
    assert outcomes[line].done(), "the check hangs"
    with pytest.raises((AssertionError, TimeoutError)):
        outcomes[line].result()


TEST = test_a_check_notices.__name__
