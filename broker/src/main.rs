//! The `alluvium` program.

fn main() {
    alluvium::main()
}
