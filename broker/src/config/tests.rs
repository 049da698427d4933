use log_store::config::TOPIC_SETTINGS;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn annotated_file_in_deploy_is_this_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/alluvium.toml");
    if std::env::var_os("ALLUVIUM_BLESS").is_some() {
        std::fs::write(path, annotated()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), annotated(), "run with ALLUVIUM_BLESS=1 to write it");
}

#[test]
fn annotated_file_with_all_comments_taken_off_sets_every_default() {
    let text: String = annotated()
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| format!("{}\n", line.trim_start_matches('#')))
        .collect();
    let flat = parse_file(Path::new("x"), &text, &BTreeMap::new()).unwrap();
    assert_eq!(flat.len(), SETTINGS.len());
    for (name, value) in flat {
        assert_eq!(find(&name).unwrap().default, value, "{name}");
    }
}

#[test]
fn precedence_is_flag_set_environment_file_default() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("alluvium.toml"),
        "num.partitions = 2\nnode.id = 2\nbroker.rack = \"file\"\nlog.level = \"warn\"",
    )
    .unwrap();
    let machine = folder.path().join("machine.toml");
    std::fs::write(&machine, "num.partitions = 1\nlog.format = \"json\"\nlog.level = \"off\"").unwrap();
    let files =
        vec![folder.path().join("alluvium.toml"), folder.path().join("missing.toml"), machine.clone()];
    let mut sources = Sources { files, ..Sources::default() };
    let config = Config::load(&sources).unwrap();
    assert_eq!((config.num_partitions, config.log_level.as_str(), config.log_json), (2, "warn", true));
    assert_eq!(config.values["log.format"].1, Origin::File(machine.clone()));
    let named = Sources { file: Some(machine), files: sources.files.clone(), ..Sources::default() };
    assert_eq!(Config::load(&named).unwrap().num_partitions, 1, "a file that is named stands alone");
    sources.environment = environment(&[
        ("ALLUVIUM_NUM_PARTITIONS", "3"),
        ("ALLUVIUM_NODE_ID", "3"),
        ("ALLUVIUM_BROKER_RACK", "env"),
    ]);
    assert_eq!(Config::load(&sources).unwrap().num_partitions, 3);
    sources.set = vec![("num.partitions".to_owned(), "4".to_owned()), ("node.id".to_owned(), "4".to_owned())];
    assert_eq!(Config::load(&sources).unwrap().num_partitions, 4);
    sources.flags = vec![("--node-id", "node.id", "5".to_owned())];
    let config = Config::load(&sources).unwrap();
    assert_eq!((config.node_id, config.num_partitions, config.rack.as_deref()), (5, 4, Some("env")));
    assert_eq!(config.values["node.id"].1, Origin::Flag("--node-id"));
    assert_eq!(config.values["broker.rack"].1.to_string(), "environment variable ALLUVIUM_BROKER_RACK");
    assert_eq!(config.log_level, "warn");
    assert_eq!(config.values["num.partitions"].1, Origin::Set);
}

#[test]
fn unknown_name_says_what_was_meant() {
    let error = Config::with(&[("log.retention.msec", "1")]).unwrap_err().to_string();
    assert_eq!(error, "--set: there is no setting 'log.retention.msec'; did you mean 'log.retention.ms'?");
    let error = Config::with(&[("quite.something.else", "1")]).unwrap_err().to_string();
    assert_eq!(error, "--set: there is no setting 'quite.something.else'");
}

#[test]
fn bad_values_say_what_is_taken() {
    for (name, value, words) in [
        ("num.partitions", "many", "whole number"),
        ("num.partitions", "0", "from 1 to 10000"),
        ("wal.file.bytes", "64MiB", "without a unit"),
        ("delete.topic.enable", "yes", "true or false"),
        ("compression.type", "zst", "did you mean 'zstd'?"),
        ("log.cleanup.policy", "bogus", "any of compact, delete"),
        ("log.cleaner.min.cleanable.ratio", "abc", "a number from 0 to 1"),
        ("compression.gzip.level", "0", "from 1 to 9, or -1"),
        ("listeners", "PLAINTEXT://localhost", "HOST:PORT"),
        ("listeners", "A://h:1,A://h:2", "twice"),
        ("listeners", "SSL://h:1", "SSL:PLAINTEXT there serves it unencrypted"),
        ("listeners", "SASL_SSL://h:1", "only PLAINTEXT is spoken here"),
        ("listeners", "", "no client could connect"),
        ("advertised.listeners", "OTHER://h:1", "not among the listeners"),
        ("listener.security.protocol.map", "A:SSL", "NAME:PLAINTEXT"),
        ("admin.listen", "localhost", "HOST:PORT"),
        ("log.dir", "", "a directory"),
        ("log.level", "verbose", "'verbose' is none of error, warn"),
        ("log.level", "inf", "did you mean 'info'?"),
        ("log.level", "info,alluvium=loud", "no log filter"),
        ("wal.file.bytes", "1048577", "a multiple of 4096"),
        ("group.min.session.timeout.ms", "1800001", "above group.max"),
    ] {
        let error = Config::with(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(words), "{name}={value}: {error}");
    }
    for (set, words) in [
        (
            [("log.cleaner.min.compaction.lag.ms", "2"), ("log.cleaner.max.compaction.lag.ms", "1")],
            "is above max.compaction.lag.ms",
        ),
        (
            [("listener.security.protocol.map", "A:PLAINTEXT"), ("listeners", "A://h:1,PLAINTEXT://h:1")],
            "h:1 is another listener's",
        ),
    ] {
        let error = Config::with(&set).unwrap_err().to_string();
        assert!(error.contains(words), "{set:?}: {error}");
    }
}

#[test]
fn file_takes_dotted_quoted_and_table_keys_lists_and_variables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    std::fs::write(
        &path,
        "\"log.retention.ms\" = 5\nlisteners = [\"PLAINTEXT://127.0.0.1:1\", \"B://127.0.0.1:2\"]\n\
         listener.security.protocol.map = [\"b:PLAINTEXT\"]\n\
         broker.rack = \"${RACK:none}-${ZONE}\"\n[log.segment]\nbytes = 1048576\n",
    )
    .unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        environment: environment(&[("ZONE", "z")]),
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.log_defaults.retention_ms, Some(5));
    assert_eq!(config.log_defaults.segment_bytes, 1_048_576);
    assert_eq!(config.rack.as_deref(), Some("none-z"));
    assert_eq!(config.listeners.len(), 2);
    let missing = Sources { file: Some(path), ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().contains("ZONE is not set"));
    let absent = Sources { file: Some("/nonexistent/x.toml".into()), ..Sources::default() };
    assert!(Config::load(&absent).unwrap_err().to_string().starts_with("/nonexistent/x.toml: "));
}

#[test]
fn retention_in_milliseconds_beats_minutes_beats_hours() {
    let retention = |set: &[(&str, &str)]| Config::with(set).unwrap().log_defaults.retention_ms;
    assert_eq!(retention(&[]), Some(604_800_000));
    assert_eq!(retention(&[("log.retention.hours", "1")]), Some(3_600_000));
    assert_eq!(retention(&[("log.retention.hours", "1"), ("log.retention.minutes", "1")]), Some(60_000));
    assert_eq!(retention(&[("log.retention.minutes", "1"), ("log.retention.ms", "1")]), Some(1));
    assert_eq!(retention(&[("log.retention.minutes", "-1")]), None);
    assert_eq!(Config::with(&[("log.roll.hours", "2")]).unwrap().log_defaults.segment_ms, 7_200_000);
}

#[test]
fn settings_of_clients_in_the_same_file_are_none_of_the_servers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alluvium.toml");
    std::fs::write(&path, "node.id = 7\n[client]\nbrokers = [\"a:1\"]\ntimeout = \"9s\"\n").unwrap();
    let sources = Sources { files: vec![path], ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap().node_id, 7);
}

/// In a build for release, too: there neither debug nor trace is taken.
#[test]
fn levels_that_a_build_lacks_are_refused() {
    for (filter, needed) in [
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("warn,alluvium::connection=trace", LevelFilter::TRACE),
    ] {
        assert_eq!(log_filter(filter).is_ok(), needed <= STATIC_MAX_LEVEL, "{filter}");
    }
}

#[test]
fn files_are_looked_for_in_the_usual_folders() {
    let files = |pairs: &[(&str, &str)]| {
        let environment = environment(pairs);
        let files = config_files(&|name| environment.get(name).cloned());
        files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    let user = "alluvium.toml /home/u/.config/alluvium/alluvium.toml /etc/alluvium/alluvium.toml";
    assert_eq!(files(&[("HOME", "/home/u")]), user);
    assert_eq!(files(&[("HOME", "/home/u"), ("XDG_CONFIG_HOME", "")]), user);
    assert_eq!(files(&[("HOME", "/home/u"), ("XDG_CONFIG_HOME", "relative")]), user);
    let other = "alluvium.toml /x/alluvium/alluvium.toml /etc/alluvium/alluvium.toml";
    assert_eq!(files(&[("HOME", "/home/u"), ("XDG_CONFIG_HOME", "/x")]), other);
    assert_eq!(files(&[("HOME", "")]), "alluvium.toml /etc/alluvium/alluvium.toml");
}

#[test]
fn variables_that_are_no_text_only_matter_where_they_are_ours() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || OsString::from_vec(vec![b'x', 0xff]);
    let others = [("OTHER".into(), bytes()), (bytes(), "x".into()), ("ALLUVIUM_NODE_ID".into(), "3".into())];
    let sources = Sources::from_variables(others.into_iter()).unwrap();
    assert_eq!(sources.environment, environment(&[("ALLUVIUM_NODE_ID", "3")]));
    let error = Sources::from_variables([("ALLUVIUM_LOG_DIR".into(), bytes())].into_iter()).unwrap_err();
    assert_eq!(error.to_string(), "environment variable ALLUVIUM_LOG_DIR: its value is not UTF-8");
}

#[test]
fn blanks_around_a_value_change_nothing() {
    let plain = Config::with(&[]).unwrap();
    for setting in SETTINGS {
        let config = Config::with(&[(setting.name, &format!(" {}\t", setting.default))]).unwrap();
        assert_eq!(config.values[setting.name].0, setting.default, "{}", setting.name);
        assert_eq!(config.log_defaults, plain.log_defaults, "{}", setting.name);
    }
    let config =
        Config::with(&[("log.retention.hours", "24 "), ("metrics.partition.level", " all")]).unwrap();
    assert_eq!(config.log_defaults.retention_ms, Some(86_400_000));
    assert_eq!(config.metrics_partition_level, PartitionLevel::All);
}

#[test]
fn topics_get_the_defaults_that_are_written_here() {
    assert_eq!(Config::with(&[]).unwrap().log_defaults, LogConfig::default());
    let known = |name: &str| find(name).is_some();
    for topic in TOPIC_SETTINGS.iter().filter(|topic| topic.has_effect) {
        assert!(
            topic.synonyms.iter().any(|(name, _)| known(name)) || topic.synonyms.is_empty(),
            "{}",
            topic.name
        );
    }
}

/// Proves: M1 (what is advertised is never a wildcard).
#[test]
fn wildcard_listener_is_never_advertised() {
    let config = Config::with(&[
        ("listeners", "PLAINTEXT://0.0.0.0:9092,IN://127.0.0.1:0"),
        ("advertised.listeners", "IN://example.org:1"),
        ("listener.security.protocol.map", "IN:PLAINTEXT"),
    ])
    .unwrap();
    assert!(!["0.0.0.0", "", "::"].contains(&config.listeners[0].advertised_host.as_str()));
    assert_eq!(
        (config.listeners[1].advertised_host.as_str(), config.listeners[1].advertised_port),
        ("example.org", 1)
    );
}
