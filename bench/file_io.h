typedef struct file_io file_io;
file_io *file_io_open(const char *path, uint64_t pages, bool direct, bool cold);
void file_io_close(file_io *io);
const char *file_io_no_uring(void);
double file_io_read(file_io *io, int how, uint64_t batch, bool neighbours);
double file_io_write(file_io *io, int how, uint64_t batch, bool neighbours);
