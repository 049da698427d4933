//! The `alluvium` program.

fn main() -> std::process::ExitCode {
    alluvium::main()
}
